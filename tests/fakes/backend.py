"""A scripted backend and a scripted retriever: what a model or an index would do, said in advance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Literal

from ragchat.backends.contract import Finish, Piece, Prompt
from ragchat.events import Passage, Token
from ragchat.rag.contract import Query

Step = Piece | asyncio.Event | Exception
Script = Callable[[Prompt], Sequence[Step]]


class ScriptedBackend:
    """Yields the pieces of a script; an `asyncio.Event` in it is waited for, an exception raised.

    ``prompts`` are what it was asked, ``closed`` is set when an answer's generator was closed.
    """

    name = "scripted"
    continuation: Literal["none", "prefix", "replay"] = "none"

    def __init__(self, script: Script | Sequence[Step]) -> None:
        self.script = script
        self.prompts: list[Prompt] = []
        self.closed = asyncio.Event()

    async def answer(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        self.prompts.append(prompt)
        steps = self.script(prompt) if callable(self.script) else self.script
        try:
            for step in steps:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
                else:
                    yield step
        finally:
            self.closed.set()

    async def check(self) -> str:
        return "scripted"

    async def close(self) -> None:
        return None


class FixedRetriever:
    """Finds the same passages for every question; ``queries`` are what it was asked."""

    def __init__(self, passages: Sequence[Passage] = ()) -> None:
        self.passages = list(passages)
        self.queries: list[Query] = []

    async def retrieve(self, query: Query) -> list[Passage]:
        self.queries.append(query)
        return self.passages


def words(text: str) -> list[Step]:
    """A script that says ``text`` word by word and finishes."""
    parts = text.split(" ")
    tokens = [Token(part + " ") for part in parts[:-1]] + [Token(parts[-1])]
    return [*tokens, Finish()]


def passage(number: int, content: str = "A passage.") -> Passage:
    """A passage of the document ``doc<number>``."""
    return Passage(
        id=f"chunk{number}", content=content, document_id=f"doc{number}", document_name=f"{number}.md",
        dataset_id="dataset", similarity=0.5, term_similarity=0.5,
    )  # fmt: skip
