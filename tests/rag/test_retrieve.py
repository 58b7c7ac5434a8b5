"""From a question to passages."""

from __future__ import annotations

import pytest

from ragchat.events import Passage
from ragchat.rag.contract import Query
from ragchat.rag.ingest import Ingester
from ragchat.rag.retrieve import IndexRetriever
from ragchat.store.database import Database
from tests.rag.conftest import TENANT

MANUAL = """\
# Manual

## Start the service

Run `ragchat serve` and open the page that it names.

## Continue an interrupted answer

When a connection breaks, send the last id that arrived as `Last-Event-ID`. The stream goes on behind it.

## Limits

At most 500 answers are generated at once.
"""

ANIMALS = {
    "bears.txt": "Polar bears live in the Arctic. In winter they hunt on the ice.",
    "penguins.txt": "Penguins live in the Antarctic. In winter they huddle together.",
    "企鹅.txt": "企鹅生活在南半球。冬天它们挤在一起取暖。",
    "copy.txt": "Polar bears live in the  Arctic. In winter they hunt on the ice.",
}


@pytest.fixture
async def retriever(database: Database, dataset: str, ingester: Ingester) -> IndexRetriever:
    await ingester.ingest(MANUAL.encode(), "manual.md", tenant=TENANT, dataset_id=dataset)
    for name, text in ANIMALS.items():
        await ingester.ingest(text.encode(), name, tenant=TENANT, dataset_id=dataset)
    return IndexRetriever(database)


async def ask(retriever: IndexRetriever, dataset: str, question: str, *earlier: str) -> list[Passage]:
    return await retriever.retrieve(
        Query(tenant=TENANT, question=question, datasets=(dataset,), earlier=earlier, limit=3)
    )


async def test_the_right_section_is_found_with_its_headings_and_place(
    retriever: IndexRetriever, dataset: str
) -> None:
    passage = (await ask(retriever, dataset, "How do I continue an interrupted answer?"))[0]
    assert passage.content.startswith("Manual > Continue an interrupted answer\n\nWhen a connection breaks")
    assert (passage.document_name, passage.dataset_id) == ("manual.md", dataset)
    [(page, start, end)] = passage.positions
    assert page == 0
    assert MANUAL[start:end].startswith("## Continue an interrupted answer")
    assert MANUAL[start:end].endswith(passage.content.partition("\n\n")[2])
    assert 0.5 < passage.similarity == passage.term_similarity <= 1.0


@pytest.mark.parametrize("question", ["企鹅在冬天做什么？", "企鹅"])
async def test_chinese_is_found(retriever: IndexRetriever, dataset: str, question: str) -> None:
    assert (await ask(retriever, dataset, question))[0].document_name == "企鹅.txt"


@pytest.mark.parametrize(
    "question", ["asdkjh qwe", "What is the capital of Mars?", "火星有多大？", "what is it?", "??"]
)
async def test_nothing_is_found_where_there_is_nothing(
    retriever: IndexRetriever, dataset: str, question: str
) -> None:
    assert await ask(retriever, dataset, question) == []


async def test_a_follow_up_finds_what_it_refers_to(retriever: IndexRetriever, dataset: str) -> None:
    about_penguins = await ask(retriever, dataset, "And in winter?", "Where do penguins live?")
    about_bears = await ask(retriever, dataset, "And in winter?", "Where do polar bears live?")
    assert about_penguins[0].document_name == "penguins.txt"
    assert about_bears[0].document_name in {"bears.txt", "copy.txt"}


async def test_a_new_question_finds_the_same_in_every_session(retriever: IndexRetriever, dataset: str) -> None:
    before = "How do I continue an interrupted answer?"
    for question in ("What are the limits?", "Where do penguins live?", "企鹅生活在哪里？"):
        assert await ask(retriever, dataset, question, before) == await ask(retriever, dataset, question)


async def test_a_new_question_that_finds_nothing_does_not_get_the_answer_before(
    retriever: IndexRetriever, dataset: str
) -> None:
    assert await ask(retriever, dataset, "Are bicycles insured?", "Where do penguins live?") == []


async def test_a_question_that_is_not_understood_alone_finds_what_it_refers_to(
    retriever: IndexRetriever, dataset: str
) -> None:
    found = await ask(retriever, dataset, "Where?", "Do penguins live together?")
    assert found[0].document_name == "penguins.txt"


async def test_a_heading_that_fits_comes_before_words_in_passing(
    dataset: str, ingester: Ingester, retriever: IndexRetriever
) -> None:
    await ingester.ingest(
        b"# Book\n\n## Tokens\n\nRun the command.\n\n## Routes\n\nToken, token.", "b.md",
        tenant=TENANT, dataset_id=dataset,
    )  # fmt: skip
    assert (await ask(retriever, dataset, "How do I get a token?"))[0].content.startswith("Book > Tokens")


async def test_the_same_text_is_shown_once(retriever: IndexRetriever, dataset: str) -> None:
    passages = await ask(retriever, dataset, "Where do polar bears hunt in winter?")
    assert [passage.document_name for passage in passages].count("bears.txt") + [
        passage.document_name for passage in passages
    ].count("copy.txt") == 1


async def test_limit_and_threshold_are_kept(retriever: IndexRetriever, dataset: str) -> None:
    query = Query(tenant=TENANT, question="polar bears in winter", datasets=(dataset,), limit=1, threshold=0.0)
    assert len(await retriever.retrieve(query)) == 1
    strict = Query(tenant=TENANT, question="winter whales", datasets=(dataset,), threshold=0.9)
    assert await retriever.retrieve(strict) == []


async def test_another_tenant_finds_nothing(retriever: IndexRetriever, dataset: str) -> None:
    assert await retriever.retrieve(Query(tenant="other", question="penguins", datasets=(dataset,))) == []
    assert await retriever.retrieve(Query(tenant=TENANT, question="penguins", datasets=())) == []
