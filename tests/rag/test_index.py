"""The index: the same on both databases, and BM25 on each."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from ragchat.rag import index as index_module
from ragchat.rag.analyse import analyse
from ragchat.rag.index import K1, B, Entry, Hit, Index, Scope, index_of
from ragchat.rag.question import weigh
from ragchat.store.database import Database
from ragchat.store.models import Chunk, Dataset, Document
from tests.services import postgres_database

TEXTS = {
    "seals": "Seals live on the ice. Seals eat fish, and seals sleep on the ice too.",
    "bears": "Polar bears live on the ice of the Arctic and hunt seals.",
    "penguins": "Penguins live in the south. A penguin can not fly, but a penguin can swim and dive for fish.",
    "whales": "Whales are the largest animals. They breathe air.",
    "企鹅": "企鹅生活在南半球。企鹅不会飞，但是会游泳。",
    "北极熊": "北极熊生活在北极的冰上，以海豹为食。",
    "marks": "...",
}


async def add(database: Database, texts: dict[str, str], *, tenant: str = "t", dataset: str = "animals") -> None:
    """Index each text as the only chunk, ``<name>-chunk``, of the document ``<name>``."""
    index = index_of(database)

    async def write() -> None:
        await Dataset.get_or_create(id=dataset, defaults={"tenant": tenant, "name": dataset})
        for name, text in texts.items():
            await Document.create(id=name, tenant=tenant, dataset_id=dataset, name=name)
            await Chunk.create(
                id=f"{name}-chunk", tenant=tenant, document_id=name, dataset_id=dataset, position=0, content=text
            )
            await index.add(dataset, name, [Entry(f"{name}-chunk", tuple(analyse(text)))])

    await database.transaction(write)


async def search(database: Database, question: str, **scope: tuple[str, ...]) -> list[Hit]:
    where = Scope(**{"tenant": "t", "datasets": ("animals",), **scope})  # type: ignore[arg-type]
    return await index_of(database).search(weigh(question), where, 10)


async def names(database: Database, question: str, **scope: tuple[str, ...]) -> list[str]:
    return [hit.chunk_id.removesuffix("-chunk") for hit in await search(database, question, **scope)]


def bm25(question: str, texts: dict[str, str]) -> dict[str, float]:
    """The textbook formula, computed from the texts themselves."""
    terms = {name: analyse(text) for name, text in texts.items() if analyse(text)}
    average = sum(map(len, terms.values())) / len(terms)
    found = Counter(term for words in terms.values() for term in set(words))
    scores: dict[str, float] = {}
    for name, words in terms.items():
        counts = Counter(words)
        for term, weight in weigh(question).items():
            idf = math.log(1 + (len(terms) - found[term] + 0.5) / (found[term] + 0.5))
            part = counts[term] * (K1 + 1) / (counts[term] + K1 * (1 - B + B * len(words) / average))
            scores[name] = scores.get(name, 0.0) + weight * idf * part
    return {name: score for name, score in scores.items() if score}


@pytest.fixture
async def animals(database: Database) -> Database:
    await add(database, TEXTS)
    return database


@pytest.mark.parametrize(
    "question", ["Where do seals live?", "penguin", "企鹅会飞吗？", "the ice", "fish fish ice"]
)
async def test_the_order_and_the_scores_are_those_of_bm25(animals: Database, question: str) -> None:
    hits = await search(animals, question)
    expected = bm25(question, TEXTS)
    assert {hit.chunk_id.removesuffix("-chunk"): hit.score for hit in hits} == pytest.approx(expected)
    assert [hit.score for hit in hits] == sorted(expected.values(), reverse=True)


WORDS = [*"abcdefgh", "企鹅", "北极熊", "ice", "the"]


async def found_at_random(url: str) -> list[Hit]:
    """Everything that is found in random texts by random questions, always the same ones."""
    random = Random(7)
    database = Database(url)
    await database.open()
    hits: list[Hit] = []
    for number in range(6):
        texts = [" ".join(random.choices(WORDS, k=random.randrange(30))) for _ in range(20)]
        named = {f"{number}-{place:02}": text for place, text in enumerate(texts)}
        await add(database, named, dataset=f"random {number}")
        for _ in range(6):
            question = " ".join(random.choices(WORDS, k=random.randrange(1, 6)))
            hits += await search(database, question, datasets=(f"random {number}",))
    await database.close()
    return hits


async def test_both_databases_find_the_same(tmp_path: Path) -> None:
    embedded = await found_at_random(f"sqlite://{tmp_path / 'ragchat.db'}")
    async with postgres_database() as url:
        served = await found_at_random(url)
    assert len(embedded) > 100
    assert [hit.chunk_id for hit in embedded] == [hit.chunk_id for hit in served]
    assert [hit.score for hit in embedded] == pytest.approx([hit.score for hit in served])
    assert [hit.similarity for hit in embedded] == pytest.approx([hit.similarity for hit in served])


async def test_only_the_asked_datasets_are_searched_and_counted(animals: Database) -> None:
    before = await search(animals, "seals on ice")
    await add(animals, {"other": "Seals and ice, ice and seals."}, dataset="more")
    assert await search(animals, "seals on ice") == before
    assert "other" in await names(animals, "seals on ice", datasets=("animals", "more"))


async def test_another_tenants_dataset_is_not_searched(animals: Database) -> None:
    await add(animals, {"secret": "Seals of another tenant."}, tenant="other", dataset="foreign")
    assert "secret" not in await names(animals, "seals", datasets=("animals", "foreign"))
    assert await search(animals, "seals", datasets=("foreign",)) == []


async def test_documents_narrow_further(animals: Database) -> None:
    assert await names(animals, "seals live on ice", documents=("bears", "whales")) == ["bears"]
    assert await search(animals, "seals", documents=()) == []


async def test_similarity_says_how_much_of_the_question_is_covered(animals: Database) -> None:
    whole, part = (await search(animals, "penguins dive"))[0], (await search(animals, "penguins juggle"))[0]
    assert whole.similarity == 1.0
    assert 0.1 < part.similarity < 0.5


@pytest.mark.parametrize("question", ["asdkjh qwe", "What is the capital of Mars?", "火星的首都叫什么？", "?", ""])
async def test_what_the_documents_do_not_speak_of_stays_below_the_usual_threshold(
    animals: Database, question: str
) -> None:
    assert max([hit.similarity for hit in await search(animals, question)], default=0.0) < 0.2


@pytest.mark.parametrize(
    "question",
    [
        '"',
        "seals AND",
        "seals) OR (",
        "NEAR(seals, 5)",
        "chunk_id:x seals*",
        "'seals' & !ice:*",
        "-seals ^ {a b}: +",
    ],
)
async def test_search_syntax_is_only_words(animals: Database, question: str) -> None:
    assert ("seals" in await names(animals, question)) is ("seal" in analyse(question))


async def test_a_long_question_is_cut_to_its_first_words(animals: Database) -> None:
    assert await search(animals, " ".join(f"word{number}" for number in range(5_000)) + " seals seals") != []


async def test_a_removed_document_leaves_no_trace(animals: Database) -> None:
    before = await search(animals, "seals on ice")
    counted = await animals.query("SELECT term, chunks FROM ragchat_term ORDER BY term")
    await add(animals, {"new": "A new word on seals."})
    await animals.transaction(lambda: index_of(animals).remove("animals", "new"))
    assert await search(animals, "seals on ice") == before
    assert await animals.query("SELECT term, chunks FROM ragchat_term ORDER BY term") == counted


async def test_a_removal_that_is_rolled_back_changes_nothing(animals: Database) -> None:
    before = await search(animals, "seals on ice")

    async def fail() -> None:
        await index_of(animals).remove("animals", "seals")
        raise KeyError

    with pytest.raises(KeyError):
        await animals.transaction(fail)
    assert await search(animals, "seals on ice") == before


async def test_common_words_are_not_looked_up_when_rarer_ones_are_enough(
    animals: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "_BUDGET", 3)
    looked_up: list[str] = []
    index = index_of(animals)
    scan = index._scan

    async def spy(lists: dict[str, float], scopes: list[list[str]]) -> list[dict[str, object]]:
        looked_up.extend(lists)
        return await scan(lists, scopes)

    monkeypatch.setattr(index, "_scan", spy)
    where = Scope(tenant="t", datasets=("animals",))
    hits = await index.search(weigh("Where do the polar bears live?"), where, 10)
    assert hits[0].chunk_id == "bears-chunk"
    assert hits[0].similarity == pytest.approx(
        (await search(animals, "Where do the polar bears live?"))[0].similarity
    )
    assert set(looked_up) == {"polar", "bear"}


def test_each_database_has_its_index() -> None:
    assert isinstance(index_of(Database("sqlite://x.db")), Index)
    assert type(index_of(Database("sqlite://x.db"))) is not type(index_of(Database("postgres://host/x")))
