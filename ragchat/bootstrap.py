"""What a new database is given, so that there is something to talk to: the chat ``default`` over our own docs."""

from __future__ import annotations

import contextlib
from typing import Final

from tortoise.exceptions import IntegrityError

from ragchat.auth.identity import DEFAULT_TENANT
from ragchat.store.database import Database
from ragchat.store.models import Chat

DEFAULT_CHAT: Final = "default"
DOCUMENTATION: Final = "ragchat-docs"


async def bootstrap(database: Database) -> None:
    """Make sure that the chat ``default`` exists."""

    async def create() -> None:
        if not await Chat.exists(id=DEFAULT_CHAT):
            with contextlib.suppress(IntegrityError):  # another process was faster
                await Chat.create(id=DEFAULT_CHAT, tenant=DEFAULT_TENANT, name="ragchat")

    await database.run(create)
