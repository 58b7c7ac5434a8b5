"""An answer as it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Self

from ragchat.client.errors import ChatError, UnusableError
from ragchat.client.exchange import Exchange
from ragchat.client.frames import Chunk, Frame


class Answer:
    """One answer: iterate over it for the text, piece by piece; it can be iterated over once.

    Comes from `Client.ask`. An answer belongs to the service: whoever stops iterating, or loses the
    connection, does not stop it. Only `cancel` does.

    Attributes:
        text: the answer so far. When the service replaces what it said before, which is rare, the piece that
            the iteration yields is the whole new text and ``text`` equals it.
        reference: ``{"total", "chunks", "doc_aggs"}`` once the answer is complete; ``[ID:n]`` in the text is
            ``chunks[n]``.
        session_id: the conversation, for the next question; known from the first piece on.
    """

    def __init__(self, exchanges: Sequence[Exchange], fell_back: Callable[[], None]) -> None:
        self.text = ""
        self.reference: dict[str, Any] = {}
        self.session_id: str | None = None
        self._exchange = exchanges[0]
        self._cancelled = False
        # Unbounded, but never more than the one answer that the caller is going to keep anyway.
        self._frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        self._receiver = asyncio.create_task(self._receive(exchanges, fell_back))
        self._receiver.add_done_callback(self._end)

    @property
    def run_id(self) -> str | None:
        """The run behind the answer; only known when it comes over SSE."""
        return self._exchange.run_id

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        """The next piece of text.

        Raises:
            ChatError: the service refused the question or failed to answer it; ``text`` is what it said before.
            NetworkError: the connection could not be made or kept.
        """
        while (frame := await self._frames.get()) is not None:
            if frame.code != 0:
                raise ChatError(frame.code, frame.message)
            if isinstance(frame.data, Chunk) and (piece := self._apply(frame.data)):
                return piece
        self._frames.put_nowait(None)  # whoever asks again gets the same end
        if not self._receiver.cancelled():
            self._receiver.result()
        raise StopAsyncIteration

    async def cancel(self) -> None:
        """Have the answer stopped; what was said before stays, and the iteration comes to its end.

        Harmless when the answer is complete already.

        Raises:
            ClientError: the service could not be told.
        """
        self._cancelled = True
        if not self._receiver.done():
            await self._exchange.cancel()

    async def close(self) -> None:
        """Stop following the answer. The service goes on with it."""
        self._receiver.cancel()
        await asyncio.wait({self._receiver})

    def _apply(self, chunk: Chunk) -> str:
        self.session_id = chunk.session_id or self.session_id
        if isinstance(chunk.reference, dict) and chunk.reference:
            self.reference = chunk.reference
        self.text = chunk.answer if chunk.replace else self.text + chunk.answer
        return chunk.answer

    async def _receive(self, exchanges: Sequence[Exchange], fell_back: Callable[[], None]) -> None:
        *unsure, last = exchanges
        for exchange in unsure:
            try:
                await self._talk(exchange)
            except UnusableError:
                continue
            return
        await self._talk(last)
        if unsure:
            fell_back()

    async def _talk(self, exchange: Exchange) -> None:
        self._exchange = exchange
        if self._cancelled:
            await exchange.cancel()
        await exchange.talk(self._frames.put_nowait)

    def _end(self, receiver: asyncio.Task[None]) -> None:
        if not receiver.cancelled():
            receiver.exception()  # it is raised where the answer is iterated over, or meant for nobody
        self._frames.put_nowait(None)
