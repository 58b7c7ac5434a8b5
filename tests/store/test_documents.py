"""Our few queries on datasets, documents and chunks."""

from __future__ import annotations

import asyncio

import pytest

from ragchat.errors import NotFoundError
from ragchat.store import documents
from ragchat.store.database import Database
from ragchat.store.models import Chunk, Dataset, Document


@pytest.fixture
async def document(database: Database) -> Document:
    """A document with one chunk, of the tenant ``t``."""
    dataset = await documents.dataset_named(database, "t", "docs")
    document = await database.run(
        lambda: Document.create(tenant="t", dataset_id=dataset.id, name="a.md", source="/x/a.md")
    )
    await database.run(
        lambda: Chunk.create(
            id="c", tenant="t", document_id=document.id, dataset_id=dataset.id, position=0, content="Text."
        )
    )
    return document


async def test_a_dataset_is_made_once_per_tenant_and_name(database: Database) -> None:
    made = await asyncio.gather(*(documents.dataset_named(database, "t", "docs") for _ in range(4)))
    assert len({dataset.id for dataset in made}) == 1
    assert (await documents.dataset_named(database, "other", "docs")).id != made[0].id
    assert await database.run(lambda: Dataset.all().count()) == 2


async def test_what_belongs_to_another_tenant_is_not_there(database: Database, document: Document) -> None:
    assert (await documents.find_dataset(database, "t", document.dataset_id)).name == "docs"
    assert (await documents.find_document(database, "t", document.id)).name == "a.md"
    assert list(await documents.find_chunks(database, "t", ["c"])) == ["c"]
    with pytest.raises(NotFoundError, match="There is no dataset"):
        await documents.find_dataset(database, "other", document.dataset_id)
    with pytest.raises(NotFoundError, match="There is no document"):
        await documents.find_document(database, "other", document.id)
    assert await documents.find_chunks(database, "other", ["c"]) == {}


async def test_chunks_come_with_their_document(database: Database, document: Document) -> None:
    chunk = (await documents.find_chunks(database, "t", ["c", "d"]))["c"]
    assert (chunk.content, chunk.document.name) == ("Text.", "a.md")
    assert await documents.find_chunks(database, "t", []) == {}


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [("a.md", "/x/a.md", True), ("b.md", "/x/a.md", True), ("a.md", "/y/a.md", False), ("a.md", "", False)],
)
async def test_an_earlier_version_is_known_by_its_source(
    database: Database, document: Document, name: str, source: str, found: bool
) -> None:
    version = await documents.find_version(database, "t", document.dataset_id, name, source)
    assert (version is not None) is found


async def test_an_earlier_version_without_source_is_known_by_its_name(
    database: Database, document: Document
) -> None:
    await database.run(lambda: Document.create(tenant="t", dataset_id=document.dataset_id, name="upload.md"))
    assert await documents.find_version(database, "t", document.dataset_id, "upload.md", "") is not None
    assert await documents.find_version(database, "t", document.dataset_id, "other.md", "") is None


async def test_only_a_dataset_that_is_there_can_be_locked(database: Database, document: Document) -> None:
    await database.transaction(lambda: documents.lock_dataset("t", document.dataset_id))
    with pytest.raises(NotFoundError):
        await database.transaction(lambda: documents.lock_dataset("other", document.dataset_id))
