"""What a new database is given, so that there is something to talk to: the chat ``default`` over our own docs."""

from __future__ import annotations

import contextlib
from importlib.resources import files
from typing import Final

from tortoise.exceptions import IntegrityError

from ragchat.auth.identity import DEFAULT_TENANT
from ragchat.rag.ingest import Ingester
from ragchat.store.database import Database
from ragchat.store.documents import dataset_named
from ragchat.store.models import Chat, Dataset

DEFAULT_CHAT: Final = "default"
DOCUMENTATION: Final = "ragchat-docs"


async def bootstrap(database: Database) -> None:
    """Make sure that the chat ``default`` exists, and that what it knows of ragchat is of this version.

    Whoever removed the documentation, or the chat's right to read it, is not given it again.

    Raises:
        DatabaseError: the database can't be reached.
    """
    is_new = not await database.run(lambda: Chat.exists(id=DEFAULT_CHAT))
    has_docs = await database.run(lambda: Dataset.exists(tenant=DEFAULT_TENANT, name=DOCUMENTATION))
    if is_new or has_docs:
        dataset = await dataset_named(database, DEFAULT_TENANT, DOCUMENTATION)
        await _ingest_documentation(database, dataset.id)
        if is_new:
            with contextlib.suppress(IntegrityError):  # another process was faster
                await database.run(lambda: _create_chat(dataset.id))


async def _create_chat(dataset_id: str) -> None:
    await Chat.create(id=DEFAULT_CHAT, tenant=DEFAULT_TENANT, name="ragchat", dataset_ids=[dataset_id])


async def _ingest_documentation(database: Database, dataset_id: str) -> None:
    ingester = Ingester(database)
    for document in files("ragchat.docs").iterdir():
        if document.name.endswith(".md"):
            await ingester.ingest(
                document.read_bytes(), document.name, tenant=DEFAULT_TENANT, dataset_id=dataset_id
            )
