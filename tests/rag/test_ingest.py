"""Documents into the database: all of them or nothing of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ragchat.errors import DocumentError, NotFoundError, TooLargeError
from ragchat.rag import ingest as ingest_module
from ragchat.rag.contract import Query
from ragchat.rag.index import Index
from ragchat.rag.ingest import Ingester
from ragchat.rag.retrieve import IndexRetriever
from ragchat.store.database import Database
from ragchat.store.documents import find_document
from ragchat.store.models import Chunk, Dataset, Document
from tests.rag.conftest import TENANT

SEALS = b"# Seals\n\nSeals eat fish.\n\n## Sleep\n\nSeals sleep on the ice."


async def found(database: Database, dataset: str, question: str) -> list[str]:
    query = Query(tenant=TENANT, question=question, datasets=(dataset,))
    return [passage.content for passage in await IndexRetriever(database).retrieve(query)]


async def counts(database: Database, dataset: str) -> dict[str, int]:
    row = await database.run(lambda: Dataset.get(id=dataset))
    [index] = await database.query("SELECT count(*) AS rows FROM ragchat_index")
    [terms] = await database.query("SELECT count(*) AS rows FROM ragchat_term")
    return {
        "documents": await database.run(lambda: Document.all().count()),
        "chunks": await database.run(lambda: Chunk.all().count()),
        "counted chunks": row.chunk_count,
        "counted tokens": row.token_count,
        "index": index["rows"],
        "terms": terms["rows"],
    }


async def test_a_document_is_kept_with_its_chunks(database: Database, dataset: str, ingester: Ingester) -> None:
    result = await ingester.ingest(SEALS, "seals.md", tenant=TENANT, dataset_id=dataset, source="/a/seals.md")
    assert (result.outcome, result.chunks) == ("added", 2)
    document = await find_document(database, TENANT, result.document_id)
    assert (document.name, document.source, document.media_type) == ("seals.md", "/a/seals.md", "text/markdown")
    assert (document.size, document.status, document.chunk_count) == (len(SEALS), "DONE", 2)
    chunks = await database.run(lambda: Chunk.filter(document_id=document.id).order_by("position"))
    assert [(chunk.position, chunk.dataset_id, chunk.content, chunk.positions) for chunk in chunks] == [
        (0, dataset, "Seals\n\nSeals eat fish.", [[0, 0, 24]]),
        (1, dataset, "Seals > Sleep\n\nSeals sleep on the ice.", [[0, 26, 59]]),
    ]


async def test_what_has_not_changed_is_skipped(dataset: str, ingester: Ingester) -> None:
    first = await ingester.ingest(SEALS, "seals.md", tenant=TENANT, dataset_id=dataset)
    again = await ingester.ingest(SEALS, "seals.md", tenant=TENANT, dataset_id=dataset)
    assert (again.outcome, again.document_id, again.chunks) == ("unchanged", first.document_id, 2)


async def test_what_has_changed_replaces_the_old(database: Database, dataset: str, ingester: Ingester) -> None:
    first = await ingester.ingest(SEALS, "seals.md", tenant=TENANT, dataset_id=dataset)
    second = await ingester.ingest(b"Whales sing songs.", "seals.md", tenant=TENANT, dataset_id=dataset)
    assert (second.outcome, second.document_id) == ("updated", first.document_id)
    assert await found(database, dataset, "What do seals eat?") == []
    assert await found(database, dataset, "Do whales sing?") == ["Whales sing songs."]
    assert await counts(database, dataset) == {
        "documents": 1, "chunks": 1, "counted chunks": 1, "counted tokens": 3, "index": 1, "terms": 3,
    }  # fmt: skip


async def test_a_document_that_can_not_be_read_leaves_the_old_one(
    database: Database, dataset: str, ingester: Ingester
) -> None:
    await ingester.ingest(SEALS, "seals.md", tenant=TENANT, dataset_id=dataset)
    before = await counts(database, dataset)
    with pytest.raises(DocumentError, match=r"seals\.md: is no text"):
        await ingester.ingest(b"\x00\x01", "seals.md", tenant=TENANT, dataset_id=dataset)
    assert await counts(database, dataset) == before
    assert await found(database, dataset, "Where do seals sleep?") != []


async def test_a_failure_half_way_leaves_the_old_one(
    database: Database, dataset: str, ingester: Ingester, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ingester.ingest(SEALS, "seals.md", tenant=TENANT, dataset_id=dataset)
    before = await counts(database, dataset)

    async def fail(*_: object) -> None:
        raise KeyError

    monkeypatch.setattr(Index, "add", fail)
    with pytest.raises(KeyError):
        await ingester.ingest(b"Whales sing.", "seals.md", tenant=TENANT, dataset_id=dataset)
    assert await counts(database, dataset) == before
    assert await found(database, dataset, "Where do seals sleep?") != []


async def test_files_of_the_same_name_are_told_apart_by_their_path(
    database: Database, dataset: str, ingester: Ingester, tmp_path: Path
) -> None:
    for folder, text in (("a", "Seals eat fish."), ("b", "Bears eat seals.")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "note.txt").write_text(text)
        await ingester.ingest_file(tmp_path / folder / "note.txt", tenant=TENANT, dataset_id=dataset)
    documents = await database.run(lambda: Document.all().order_by("created_at"))
    assert [(document.name, document.source) for document in documents] == [
        ("note.txt", str(tmp_path / folder / "note.txt")) for folder in "ab"
    ]


async def test_a_file_that_is_too_large_is_not_read_to_its_end(
    dataset: str, ingester: Ingester, tmp_path: Path
) -> None:
    (tmp_path / "large.txt").write_text("x" * 20_000)
    with pytest.raises(TooLargeError):
        await ingester.ingest_file(tmp_path / "large.txt", tenant=TENANT, dataset_id=dataset)


async def test_the_same_document_twice_at_once_is_there_once(
    database: Database, dataset: str, ingester: Ingester
) -> None:
    results = await asyncio.gather(
        *(ingester.ingest(SEALS, "seals.md", tenant=TENANT, dataset_id=dataset) for _ in range(4))
    )
    assert len({result.document_id for result in results}) == 1
    assert (await counts(database, dataset))["documents"] == 1
    assert (await counts(database, dataset))["index"] == 2


async def test_many_documents_at_once_are_counted_right(
    database: Database, dataset: str, ingester: Ingester
) -> None:
    texts = [f"Seals number {number} and {number + 1} eat fish." for number in range(12)]
    await asyncio.gather(
        *(ingester.ingest(text.encode(), f"{text}.txt", tenant=TENANT, dataset_id=dataset) for text in texts)
    )
    [row] = await database.query("SELECT chunks FROM ragchat_term WHERE term = 'seal'")
    assert row["chunks"] == 12
    assert (await counts(database, dataset))["counted chunks"] == 12


@pytest.mark.parametrize("tenant", ["t", "other"])
async def test_a_dataset_that_is_not_there_or_not_yours_is_refused(
    database: Database, dataset: str, ingester: Ingester, tenant: str
) -> None:
    where = dataset if tenant == "other" else "nowhere"
    with pytest.raises(NotFoundError, match="There is no dataset"):
        await ingester.ingest(SEALS, "seals.md", tenant=tenant, dataset_id=where)
    assert (await counts(database, dataset))["documents"] == 0


async def test_a_removed_document_is_gone_with_its_chunks_and_index(
    database: Database, dataset: str, ingester: Ingester
) -> None:
    result = await ingester.ingest(SEALS, "seals.md", tenant=TENANT, dataset_id=dataset)
    with pytest.raises(NotFoundError):
        await ingester.remove("other", result.document_id)
    await ingester.remove(TENANT, result.document_id)
    assert set((await counts(database, dataset)).values()) == {0}
    assert await found(database, dataset, "seals") == []


async def test_a_removed_dataset_is_gone_with_everything_in_it(
    database: Database, dataset: str, ingester: Ingester
) -> None:
    await ingester.ingest(SEALS, "seals.md", tenant=TENANT, dataset_id=dataset)
    with pytest.raises(NotFoundError):
        await ingester.remove_dataset("other", dataset)
    await ingester.remove_dataset(TENANT, dataset)
    assert not await database.run(lambda: Dataset.exists(id=dataset))
    for table in ("ragchat_document", "ragchat_chunk", "ragchat_term", "ragchat_index"):
        assert await database.query(f"SELECT * FROM {table}") == []


async def test_names_and_texts_that_no_database_takes_are_mended(
    database: Database, dataset: str, ingester: Ingester
) -> None:
    name = "a\0b\ud800" + "x" * 300 + ".txt"
    result = await ingester.ingest(b"Seals eat fish.", name, tenant=TENANT, dataset_id=dataset)
    document = await find_document(database, TENANT, result.document_id)
    assert (len(document.name), document.name[-5:]) == (255, "x.txt")


async def test_the_event_loop_is_free_while_a_document_is_prepared(
    dataset: str, ingester: Ingester, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    parse = ingest_module.parse

    def parse_while_the_loop_answers(*arguments: object, **options: object) -> object:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(timeout=10)
        return parse(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ingest_module, "parse", parse_while_the_loop_answers)
    assert (await ingester.ingest(SEALS, "seals.md", tenant=TENANT, dataset_id=dataset)).outcome == "added"
