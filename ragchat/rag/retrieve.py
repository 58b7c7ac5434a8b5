"""From a question, and those before it, to passages."""

from __future__ import annotations

from typing import Final

from ragchat.events import Passage
from ragchat.rag.contract import Query
from ragchat.rag.index import Hit, Scope, index_of
from ragchat.rag.question import goes_on, says_little, weigh
from ragchat.store.database import Database
from ragchat.store.documents import find_chunks
from ragchat.store.models import Chunk

_SPARE: Final = 24
"""Hits beyond the limit that are looked at, because some may say the same as others."""


class IndexRetriever:
    """Finds passages in the full-text index of ``database`` (see `ragchat.rag.index`)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._index = index_of(database)

    async def retrieve(self, query: Query) -> list[Passage]:
        """The best passages, best first; an empty list when nothing fits.

        The questions before count when this one goes on from them, and when it says little and finds nothing.

        Raises:
            DatabaseError: the database can't be reached.
        """
        if goes_on(query.question):
            hits = await self._search(query, query.earlier)
        else:
            hits = await self._search(query, ())
            if not hits and query.earlier and says_little(query.question):
                hits = await self._search(query, query.earlier)
        chunks = await find_chunks(self._database, query.tenant, [hit.chunk_id for hit in hits])
        passages: dict[str, Passage] = {}
        for hit in hits:
            if chunk := chunks.get(hit.chunk_id):
                passages.setdefault(" ".join(chunk.content.split()), _passage(chunk, hit))
        return list(passages.values())[: query.limit]

    async def _search(self, query: Query, earlier: tuple[str, ...]) -> list[Hit]:
        scope = Scope(tenant=query.tenant, datasets=query.datasets, documents=query.documents)
        found = await self._index.search(weigh(query.question, earlier), scope, query.limit + _SPARE)
        return [hit for hit in found if hit.similarity >= query.threshold]


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
