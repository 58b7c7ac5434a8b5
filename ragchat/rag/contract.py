"""What retrieval is: a question in, the passages that fit it best out."""

from __future__ import annotations

from typing import Protocol

import msgspec

from ragchat.events import Passage


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for, and where.

    ``datasets`` is already narrowed to what the chat and the principal may read (without any, there is nothing
    to find); ``documents`` narrows further when it is not None. ``earlier`` holds the user's previous questions
    of the session, oldest first, so that a follow-up ("and in winter?") finds what it refers to. At most
    ``limit`` passages with a similarity of at least ``threshold`` (0 to 1) are wanted.
    """

    tenant: str
    question: str
    datasets: tuple[str, ...]
    documents: tuple[str, ...] | None = None
    earlier: tuple[str, ...] = ()
    limit: int = 6
    threshold: float = 0.2


class Retriever(Protocol):
    """Finds passages."""

    async def retrieve(self, query: Query) -> list[Passage]:
        """The best passages, best first; an empty list when nothing fits.

        Raises:
            UnavailableError: what it searches in can't be reached.
        """
        ...
