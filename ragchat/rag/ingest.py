"""Documents into the database: read, cut, analysed and indexed, all or nothing.

What costs time (reading a PDF, cutting, stemming) happens in a thread before the transaction begins; the
transaction only writes. A document that can't be read therefore changes nothing: what was there stays and can
still be found.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Final, Literal

import msgspec

from ragchat.rag.analyse import analyse
from ragchat.rag.index import Entry, index_of
from ragchat.rag.parse import media_type, parse
from ragchat.rag.question import telling
from ragchat.rag.split import Piece, split
from ragchat.store import documents
from ragchat.store.database import Database, storable
from ragchat.store.models import Chunk, Dataset, Document, new_id

_MAX_NAME: Final = 255
_ROWS_PER_INSERT: Final = 500
_HEADING_WEIGHT: Final = 3
"""As how many occurrences one in the heading of a chunk counts: it says what all of the text is about."""


class Ingested(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a document."""

    document_id: str
    outcome: Literal["added", "updated", "unchanged"]
    chunks: int


class Ingester:
    """Adds documents to datasets, replaces and removes them.

    Args:
        database: where they are kept and indexed.
        chunk_tokens: the size of a chunk, in words or Chinese characters.
        max_bytes: the largest document that is accepted.
    """

    def __init__(self, database: Database, *, chunk_tokens: int = 512, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._database = database
        self._index = index_of(database)
        self._chunk_tokens = chunk_tokens
        self._max_bytes = max_bytes

    async def check_file(self, path: Path) -> None:
        """Raise what `ingest_file` would raise because of the file itself; nothing is changed."""
        content = await asyncio.to_thread(_read, path, self._max_bytes + 1)
        await asyncio.to_thread(parse, content, path.name, max_bytes=self._max_bytes)

    async def ingest_file(self, path: Path, *, tenant: str, dataset_id: str) -> Ingested:
        """Ingest a file; its path tells it apart from others of the same name.

        Raises:
            DocumentError, TooLargeError, NotFoundError, DatabaseError: as `ingest`.
            OSError: the file can't be opened.
        """
        content = await asyncio.to_thread(_read, path, self._max_bytes + 1)
        return await self.ingest(
            content, path.name, tenant=tenant, dataset_id=dataset_id, source=str(path.absolute())
        )

    async def ingest(
        self, content: bytes, name: str, *, tenant: str, dataset_id: str, source: str = ""
    ) -> Ingested:
        """Ingest a document: add it, or replace the one from the same ``source`` (or, without, of that ``name``).

        Raises:
            DocumentError: it can't be read. A version that was there before stays.
            TooLargeError: it has too many bytes.
            NotFoundError: the tenant has no such dataset.
            DatabaseError: the database can't be reached; nothing has changed.
        """
        name, source = storable(name)[-_MAX_NAME:], storable(source)
        digest = await asyncio.to_thread(_digest, content)
        before = await documents.find_version(self._database, tenant, dataset_id, name, source)
        if before is not None and before.digest == digest:
            return Ingested(document_id=before.id, outcome="unchanged", chunks=before.chunk_count)
        prepared = await asyncio.to_thread(self._prepare, content, name)
        document = Document(
            tenant=tenant, dataset_id=dataset_id, name=name, source=source, digest=digest,
            media_type=media_type(name), size=len(content), status="DONE", chunk_count=len(prepared),
        )  # fmt: skip
        return await self._database.transaction(lambda: self._write(document, prepared))

    async def remove(self, tenant: str, document_id: str) -> None:
        """Remove a document, its chunks and what the index knows of them.

        Raises:
            NotFoundError: the tenant has no such document.
        """
        document = await documents.find_document(self._database, tenant, document_id)

        async def remove() -> None:
            await documents.lock_dataset(tenant, document.dataset_id)
            await self._erase(document)

        await self._database.transaction(remove)

    async def remove_dataset(self, tenant: str, dataset_id: str) -> None:
        """Remove a dataset with everything in it.

        Raises:
            NotFoundError: the tenant has no such dataset.
        """

        async def remove() -> None:
            await documents.lock_dataset(tenant, dataset_id)
            await self._index.remove_dataset(dataset_id)
            await Dataset.filter(id=dataset_id).delete()

        await self._database.transaction(remove)

    def _prepare(self, content: bytes, name: str) -> list[_Prepared]:
        text = parse(content, name, max_bytes=self._max_bytes)
        return [_Prepared(piece, Entry(new_id(), _terms(piece))) for piece in split(text, self._chunk_tokens)]

    async def _write(self, document: Document, prepared: list[_Prepared]) -> Ingested:
        await documents.lock_dataset(document.tenant, document.dataset_id)
        before = await documents.version_of(document.tenant, document.dataset_id, document.name, document.source)
        if before is not None:
            document.id, document.created_at = before.id, before.created_at
            await self._erase(before)
        await document.save(force_create=True)
        await Chunk.bulk_create(
            [_chunk(document, position, item) for position, item in enumerate(prepared)],
            batch_size=_ROWS_PER_INSERT,
        )
        await self._index.add(document.dataset_id, document.id, [item.entry for item in prepared])
        return Ingested(document_id=document.id, outcome="updated" if before else "added", chunks=len(prepared))

    async def _erase(self, document: Document) -> None:
        await self._index.remove(document.dataset_id, document.id)
        await Document.filter(id=document.id).delete()


class _Prepared(msgspec.Struct, frozen=True):
    piece: Piece
    entry: Entry


def _terms(piece: Piece) -> tuple[str, ...]:
    heading = [term for term in analyse("".join(piece.headings[-1:])) if telling(term)]
    return (*analyse(piece.content), *heading * (_HEADING_WEIGHT - 1))


def _chunk(document: Document, position: int, prepared: _Prepared) -> Chunk:
    return Chunk(
        id=prepared.entry.chunk_id, tenant=document.tenant, document_id=document.id,
        dataset_id=document.dataset_id, position=position, content=storable(prepared.piece.content),
        positions=[list(place) for place in prepared.piece.positions],
    )  # fmt: skip


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
