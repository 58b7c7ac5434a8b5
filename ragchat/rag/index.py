"""The full-text index: which chunks fit a question, ranked by BM25, on SQLite (FTS5) and PostgreSQL (GIN).

Both keep the same rows and answer the same question, "which chunks hold these words, and what do the words weigh
together?"; everything that decides about the order is computed here, once. So both find the same, in the same
order.

What is kept for a chunk (see ``migrations/0001_initial.py``):

- ``terms``: the terms of its text (`ragchat.rag.analyse`), the n-th occurrence of a term written as ``term:n``.
  How often a term occurs is thus a question to the index alone, and no text is read to rank: neither engine
  has to fetch and unpack the thousands of chunks that share a word with a question, which is what makes
  ``ts_rank`` slow.
- ``scope``: one word for its dataset and one for its document. Every lookup names the datasets, so foreign
  chunks are skipped inside the index.
- in ``ragchat_term`` and ``ragchat_dataset``, per dataset: in how many chunks each term (and each ``term:n``)
  occurs, the number of chunks and their length. Ranks depend on the asked datasets alone, never on those of
  other tenants. They change in the transaction that changes the chunks.

A search first takes the *shortest* posting lists of the question until `_BUDGET` postings are reached and sums up
what they weigh: a word that occurs nearly everywhere weighs next to nothing and would cost the most. Of the best
`_POOL` chunks BM25 is then computed exactly, with all words.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from tortoise.expressions import F

from ragchat.rag.question import telling
from ragchat.store.database import Database, connection
from ragchat.store.models import Dataset

K1: Final = 1.2
"""BM25: how soon another occurrence of a term stops to matter."""

B: Final = 0.6
"""BM25: how much a long chunk has to share its terms; 0 not at all, 1 in proportion."""

_MAX_OCCURRENCES: Final = 8
"""Occurrences of a term in a chunk that are told apart; BM25 has nearly levelled off there."""

_LEVELS: Final = (1, 2, 4, 8)
"""The occurrences whose posting lists are looked at for a first, rough order."""

_BUDGET: Final = 10_000
_POOL: Final = 256
_MAX_TERMS: Final = 64
_UNKNOWN_PAIR_WEIGHT: Final = 0.2
"""Of a pair of Chinese characters that occurs nowhere: it may be no word, but the seam between two."""


_STRICTNESS: Final = 1.5
"""The power to which the covered part of a question is raised: half of it is not half an answer."""


class Entry(msgspec.Struct, frozen=True):
    """A chunk as it is indexed: its id and the terms of its text."""

    chunk_id: str
    terms: tuple[str, ...]


class Hit(msgspec.Struct, frozen=True):
    """A chunk that was found.

    ``score`` is its BM25, which orders the hits. ``similarity`` is how much of the question it covers, 0 to 1:
    the weight of the question's terms that occur in it, as a part of the weight of all of them, squared. A rare
    term weighs more than a common one, one that occurs nowhere most, and words that only ask nothing.
    """

    chunk_id: str
    score: float
    similarity: float


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """Where to search: a tenant's datasets, and of them only some documents when these are not None."""

    tenant: str
    datasets: tuple[str, ...]
    documents: tuple[str, ...] | None = None


class Index(ABC):
    """The index of one database; see the module's text. `index_of` chooses the right one.

    `add` and `remove` belong into the transaction that writes the chunks; `search` stands alone.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, dataset_id: str, document_id: str, entries: Sequence[Entry]) -> None:
        """Index the chunks of one document; one without a single term can't be found and is left out."""
        scope = f"{_dataset_word(dataset_id)} {_document_word(document_id)}"
        rows = [_Row(entry.chunk_id, scope, _mark(entry.terms)) for entry in entries if entry.terms]
        await self._count(dataset_id, rows, 1)
        await self._insert(rows)

    async def remove(self, dataset_id: str, document_id: str) -> None:
        """Forget all chunks of one document."""
        rows = await self._take(_document_word(document_id))
        await self._count(dataset_id, rows, -1)

    async def remove_dataset(self, dataset_id: str) -> None:
        """Forget all chunks of a dataset. What is counted for it goes with its row."""
        await self._take(_dataset_word(dataset_id))

    async def search(self, terms: Mapping[str, float], scope: Scope, limit: int) -> list[Hit]:
        """The ``limit`` best chunks for the weighted ``terms``, best first.

        Raises:
            DatabaseError: the database can't be reached.
        """
        if not terms or scope.documents == ():
            return []
        heaviest = sorted(terms, key=lambda term: (-terms[term], term))[:_MAX_TERMS]
        weights = {term: terms[term] for term in heaviest}
        return await self._database.run(lambda: self._search(weights, scope, limit))

    async def _search(self, terms: Mapping[str, float], scope: Scope, limit: int) -> list[Hit]:
        datasets = await Dataset.filter(tenant=scope.tenant, id__in=scope.datasets, chunk_count__gt=0)
        if not datasets:
            return []
        words = [_occurrence(term, level) for term in terms for level in _LEVELS]
        counts = await self._frequencies([dataset.id for dataset in datasets], words)
        ranking = _Ranking(
            terms,
            counts,
            chunks=sum(dataset.chunk_count for dataset in datasets),
            tokens=sum(dataset.token_count for dataset in datasets),
        )
        lists = ranking.posting_lists()
        if not lists:
            return []
        scopes = [[_dataset_word(dataset.id) for dataset in datasets]]
        if scope.documents is not None:
            scopes.append([_document_word(document) for document in scope.documents])
        rows = await self._scan(lists, scopes)
        hits = [ranking.hit(row["chunk_id"], row["terms"]) for row in rows]
        return sorted(hits, key=lambda hit: (-hit.score, hit.chunk_id))[:limit]

    async def _count(self, dataset_id: str, rows: Sequence[_Row], sign: int) -> None:
        # The dataset's row comes first: it makes concurrent writers of one dataset wait for each other.
        await Dataset.filter(id=dataset_id).update(
            chunk_count=F("chunk_count") + sign * len(rows),
            token_count=F("token_count") + sign * sum(row.terms.count(" ") + 1 for row in rows),
        )
        changes = Counter(word for row in rows for word in row.terms.split())
        await self._change_frequencies(dataset_id, {word: sign * changes[word] for word in sorted(changes)})

    @abstractmethod
    async def _insert(self, rows: Sequence[_Row]) -> None: ...

    @abstractmethod
    async def _take(self, word: str) -> list[_Row]:
        """Delete the rows whose scope has ``word``, and return them."""

    @abstractmethod
    async def _change_frequencies(self, dataset_id: str, changes: Mapping[str, int]) -> None: ...

    @abstractmethod
    async def _frequencies(self, datasets: Sequence[str], words: Sequence[str]) -> dict[str, int]: ...

    @abstractmethod
    async def _scan(self, lists: Mapping[str, float], scopes: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        """``chunk_id`` and ``terms`` of the `_POOL` chunks with the largest sum of weights.

        Of every group in ``scopes`` a chunk has at least one word.
        """


class _Row(msgspec.Struct, frozen=True):
    chunk_id: str
    scope: str
    terms: str


class _Ranking:
    """BM25 and coverage for one question, over the chunks of the asked datasets."""

    def __init__(self, terms: Mapping[str, float], counts: Mapping[str, int], *, chunks: int, tokens: int) -> None:
        self._counts = counts
        self._average_length = max(1.0, tokens / chunks)
        self._idf = {
            term: math.log(1 + (chunks - counts.get(term, 0) + 0.5) / (counts.get(term, 0) + 0.5))
            for term in terms
        }
        self._weights = {term: weight * self._idf[term] for term, weight in terms.items()}
        self._importance = {
            term: weight * telling(term) * (1.0 if term in counts or term.isascii() else _UNKNOWN_PAIR_WEIGHT)
            for term, weight in self._weights.items()
        }
        self._total = sum(self._importance.values())
        self._spaced = {
            term: [f" {_occurrence(term, number)} " for number in range(1, _MAX_OCCURRENCES + 1)] for term in terms
        }

    def posting_lists(self) -> dict[str, float]:
        """The words to look up, and what each adds to a chunk: the shortest lists within the budget."""
        available = sorted(
            (count, _occurrence(term, level), term, level)
            for term in self._weights
            for level in _LEVELS
            if (count := self._counts.get(_occurrence(term, level), 0))
        )
        chosen: dict[str, list[int]] = {}
        cost = 0
        for count, _, term, level in available:
            if cost and cost + count > _BUDGET:
                break
            chosen.setdefault(term, []).append(level)
            cost += count
        return {
            _occurrence(term, level): self._weights[term] * (_saturation(level) - _saturation(below))
            for term, levels in chosen.items()
            for below, level in zip([0, *sorted(levels)], sorted(levels), strict=False)
        }

    def hit(self, chunk_id: str, terms: str) -> Hit:
        words = f" {terms} "
        norm = 1 - B + B * (words.count(" ") - 1) / self._average_length
        score = covered = 0.0
        for term, weight in self._weights.items():
            if occurrences := self._occurrences(term, words):
                score += weight * _saturation(occurrences, norm)
                covered += self._importance[term]
        return Hit(chunk_id, score, (covered / self._total) ** _STRICTNESS if self._total else 0.0)

    def _occurrences(self, term: str, words: str) -> int:
        # Looking for a dozen words in a text takes a tenth of what taking the text apart does.
        for number, word in enumerate(self._spaced[term]):
            if word not in words:
                return number
        return _MAX_OCCURRENCES


def _saturation(occurrences: int, norm: float = 1.0) -> float:
    return occurrences * (K1 + 1) / (occurrences + K1 * norm)


def _occurrence(term: str, number: int) -> str:
    return term if number == 1 else f"{term}:{number}"


def _mark(terms: Iterable[str]) -> str:
    seen: Counter[str] = Counter()
    words: list[str] = []
    for term in terms:
        seen[term] += 1
        if seen[term] <= _MAX_OCCURRENCES:
            words.append(_occurrence(term, seen[term]))
    return " ".join(words)


def _dataset_word(dataset_id: str) -> str:
    return f"dataset:{_digest(dataset_id)}"


def _document_word(document_id: str) -> str:
    return f"document:{_digest(document_id)}"


def _digest(identifier: str) -> str:
    """An id may hold any character; a word of the index only letters and digits."""
    return hashlib.blake2s(identifier.encode("utf-8", "replace"), digest_size=16).hexdigest()


class SqliteIndex(Index):
    """FTS5. The words are letters, digits and colons only, so nothing of a question is ever syntax."""

    async def _insert(self, rows: Sequence[_Row]) -> None:
        await connection().execute_query(
            "INSERT INTO ragchat_index (chunk_id, scope, terms) SELECT json_extract(value, '$[0]'), "
            "json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(?)",
            [_json([[row.chunk_id, row.scope, row.terms] for row in rows])],
        )

    async def _take(self, word: str) -> list[_Row]:
        found = await connection().execute_query_dict(
            "SELECT chunk_id, scope, terms FROM ragchat_index WHERE ragchat_index MATCH ?", [f'"{word}"']
        )
        await connection().execute_query(
            "DELETE FROM ragchat_index WHERE rowid IN "
            "(SELECT rowid FROM ragchat_index WHERE ragchat_index MATCH ?)",
            [f'"{word}"'],
        )
        return [_Row(**row) for row in found]

    async def _change_frequencies(self, dataset_id: str, changes: Mapping[str, int]) -> None:
        await connection().execute_query(
            "INSERT INTO ragchat_term (dataset_id, term, chunks) "
            "SELECT ?, key, value FROM json_each(?) WHERE true ON CONFLICT "
            "(dataset_id, term) DO UPDATE SET chunks = chunks + excluded.chunks",
            [dataset_id, _json(changes)],
        )
        await connection().execute_query(
            "DELETE FROM ragchat_term WHERE dataset_id = ? AND chunks <= 0 "
            "AND term IN (SELECT key FROM json_each(?))",
            [dataset_id, _json(changes)],
        )

    async def _frequencies(self, datasets: Sequence[str], words: Sequence[str]) -> dict[str, int]:
        rows = await connection().execute_query_dict(
            "SELECT term, sum(chunks) AS chunks FROM ragchat_term "
            "WHERE dataset_id IN (SELECT value FROM json_each(?)) AND term IN (SELECT value FROM json_each(?)) "
            "GROUP BY term",
            [_json(datasets), _json(words)],
        )
        return {row["term"]: row["chunks"] for row in rows}

    async def _scan(self, lists: Mapping[str, float], scopes: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        within = "".join(" AND ({})".format(" OR ".join(f'"{word}"' for word in group)) for group in scopes)
        return await connection().execute_query_dict(
            "SELECT chunk_id, terms FROM ragchat_index JOIN ("
            "  SELECT found.rowid AS number, sum(list.value) AS weight FROM json_each(?) AS list"
            "  CROSS JOIN ragchat_index AS found WHERE found.ragchat_index MATCH '\"' || list.key || '\"' || ?"
            "  GROUP BY found.rowid ORDER BY weight DESC, found.rowid LIMIT ?"
            ") ON ragchat_index.rowid = number",
            [_json(lists), within, _POOL],
        )


_VECTOR: Final = "array_to_tsvector(string_to_array(scope || ' ' || terms, ' '))"


class PostgresIndex(Index):
    """A GIN index over the words as a ``tsvector``.

    They are cast, not parsed: ``to_tsvector('simple', …)`` would do the same to every word and then take apart
    what looks to it like a host name or a version.
    """

    async def _insert(self, rows: Sequence[_Row]) -> None:
        await connection().execute_query(
            "INSERT INTO ragchat_index (chunk_id, scope, terms) "
            "SELECT * FROM unnest($1::text[], $2::text[], $3::text[])",
            [[row.chunk_id for row in rows], [row.scope for row in rows], [row.terms for row in rows]],
        )

    async def _take(self, word: str) -> list[_Row]:
        rows = await connection().execute_query_dict(
            f"DELETE FROM ragchat_index WHERE {_VECTOR} @@ $1::text::tsquery "  # noqa: S608  # a constant
            "RETURNING chunk_id, scope, terms",
            [f"'{word}'"],
        )
        return [_Row(**row) for row in rows]

    async def _change_frequencies(self, dataset_id: str, changes: Mapping[str, int]) -> None:
        await connection().execute_query(
            "INSERT INTO ragchat_term (dataset_id, term, chunks) SELECT $1, * FROM unnest($2::text[], $3::int[]) "
            "ON CONFLICT (dataset_id, term) DO UPDATE SET chunks = ragchat_term.chunks + excluded.chunks",
            [dataset_id, list(changes), list(changes.values())],
        )
        await connection().execute_query(
            "DELETE FROM ragchat_term WHERE dataset_id = $1 AND chunks <= 0 AND term = ANY($2::text[])",
            [dataset_id, list(changes)],
        )

    async def _frequencies(self, datasets: Sequence[str], words: Sequence[str]) -> dict[str, int]:
        rows = await connection().execute_query_dict(
            "SELECT term, sum(chunks)::int AS chunks FROM ragchat_term "
            "WHERE dataset_id = ANY($1::text[]) AND term = ANY($2::text[]) GROUP BY term",
            [list(datasets), list(words)],
        )
        return {row["term"]: row["chunks"] for row in rows}

    async def _scan(self, lists: Mapping[str, float], scopes: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        within = "".join(" & ({})".format(" | ".join(f"'{word}'" for word in group)) for group in scopes)
        return await connection().execute_query_dict(
            "SELECT chunk_id, terms FROM ragchat_index JOIN ("  # noqa: S608  # a constant
            "  SELECT number, sum(weight) AS weight FROM unnest($1::text[], $2::float[]) AS list (word, weight)"
            f"  JOIN ragchat_index ON {_VECTOR} @@ ('''' || word || '''' || $3)::tsquery"
            "  GROUP BY number ORDER BY 2 DESC, number LIMIT $4"
            ") AS best USING (number)",
            [list(lists), list(lists.values()), within, _POOL],
        )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def index_of(database: Database) -> Index:
    """The index that lives in ``database``."""
    return SqliteIndex(database) if database.dialect == "sqlite" else PostgresIndex(database)
