"""Our few queries on datasets, documents and chunks.

The index knows the chunks too (`ragchat.rag.index`), so documents are written and removed through
`ragchat.rag.ingest`, which keeps both together.
"""

from __future__ import annotations

from collections.abc import Sequence

from tortoise.exceptions import IntegrityError
from tortoise.timezone import now

from ragchat.errors import NotFoundError
from ragchat.store.database import Database
from ragchat.store.models import Chunk, Dataset, Document


async def dataset_named(database: Database, tenant: str, name: str) -> Dataset:
    """The tenant's dataset of this name, made when there is none."""

    async def find_or_create() -> Dataset:
        found = await Dataset.get_or_none(tenant=tenant, name=name)
        return found or await Dataset.create(tenant=tenant, name=name)

    try:
        return await database.run(find_or_create)
    except IntegrityError:  # somebody else made it at the same moment
        return await database.run(find_or_create)


async def find_dataset(database: Database, tenant: str, dataset_id: str) -> Dataset:
    """A tenant's dataset.

    Raises:
        NotFoundError: it has none with this id.
    """
    return await database.get(Dataset, f"There is no dataset {dataset_id!r}.", id=dataset_id, tenant=tenant)


async def find_document(database: Database, tenant: str, document_id: str) -> Document:
    """A tenant's document.

    Raises:
        NotFoundError: it has none with this id.
    """
    return await database.get(Document, f"There is no document {document_id!r}.", id=document_id, tenant=tenant)


async def find_version(
    database: Database, tenant: str, dataset_id: str, name: str, source: str
) -> Document | None:
    """The document that was read from the same place before; where ``source`` is empty, the one of that name."""
    return await database.run(lambda: version_of(tenant, dataset_id, name, source))


async def version_of(tenant: str, dataset_id: str, name: str, source: str) -> Document | None:
    """`find_version` as a step of a transaction."""
    same_name = {} if source else {"name": name}
    rows = Document.filter(tenant=tenant, dataset_id=dataset_id, source=source, **same_name)
    return await rows.order_by("created_at").first()


async def lock_dataset(tenant: str, dataset_id: str) -> None:
    """As the first step of a transaction: later writers of the same dataset wait until it is over.

    Raises:
        NotFoundError: the tenant has no such dataset.
    """
    if not await Dataset.filter(id=dataset_id, tenant=tenant).update(updated_at=now()):
        raise NotFoundError(f"There is no dataset {dataset_id!r}.")


async def find_chunks(database: Database, tenant: str, ids: Sequence[str]) -> dict[str, Chunk]:
    """The tenant's chunks of those ids, each with its document, by id."""

    async def find() -> dict[str, Chunk]:
        # Asked for both, SQLite would rather walk through all of a tenant's chunks than look up the ids.
        rows = await Chunk.filter(id__in=ids).select_related("document")
        return {chunk.id: chunk for chunk in rows if chunk.tenant == tenant}

    return await database.run(find) if ids else {}
