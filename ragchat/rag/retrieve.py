"""From a question, and those before it, to passages."""

from __future__ import annotations

from collections import Counter
from typing import Final

from ragchat.events import Passage
from ragchat.rag.analyse import FUNCTION_TERMS, analyse
from ragchat.rag.contract import Query
from ragchat.rag.index import Hit, Scope, index_of
from ragchat.store.database import Database
from ragchat.store.documents import find_chunks
from ragchat.store.models import Chunk

_SAYS_LITTLE: Final = 3
"""A question with fewer telling terms than this may be a follow-up."""

_FADING: Final = 0.4
"""What the terms of the question before weigh in a follow-up; of the one before that, the square of it."""

_REMEMBERED: Final = 2
_SPARE: Final = 24
"""Hits beyond the limit that are looked at, because some may say the same as others."""


class IndexRetriever:
    """Finds passages in the full-text index of ``database`` (see `ragchat.rag.index`)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._index = index_of(database)

    async def retrieve(self, query: Query) -> list[Passage]:
        """The best passages, best first; an empty list when nothing fits.

        Raises:
            DatabaseError: the database can't be reached.
        """
        scope = Scope(tenant=query.tenant, datasets=query.datasets, documents=query.documents)
        found = await self._index.search(weigh(query.question, query.earlier), scope, query.limit + _SPARE)
        hits = [hit for hit in found if hit.similarity >= query.threshold]
        chunks = await find_chunks(self._database, query.tenant, [hit.chunk_id for hit in hits])
        passages: dict[str, Passage] = {}
        for hit in hits:
            if chunk := chunks.get(hit.chunk_id):
                passages.setdefault(" ".join(chunk.content.split()), _passage(chunk, hit))
        return list(passages.values())[: query.limit]


def weigh(question: str, earlier: tuple[str, ...] = ()) -> dict[str, float]:
    """The terms of a question, each with what it weighs.

    A question that says little by itself ("and in winter?") borrows from the ``earlier`` ones, the last first,
    with terms that weigh less the longer ago they were used.
    """
    weights = {term: float(count) for term, count in Counter(analyse(question)).items()}
    if sum(term not in FUNCTION_TERMS for term in weights) < _SAYS_LITTLE:
        for age, before in enumerate(reversed(earlier[-_REMEMBERED:]), 1):
            for term in analyse(before):
                if term not in FUNCTION_TERMS:
                    weights.setdefault(term, _FADING**age)
    return weights


def _passage(chunk: Chunk, hit: Hit) -> Passage:
    similarity = round(hit.similarity, 4)
    return Passage(
        id=chunk.id,
        content=chunk.content,
        document_id=chunk.document_id,
        document_name=chunk.document.name,
        dataset_id=chunk.dataset_id,
        positions=tuple(tuple(place) for place in chunk.positions),
        similarity=similarity,
        term_similarity=similarity,
    )
