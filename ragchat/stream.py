"""The streaming generator that every transport iterates.

Replay and live are one act: read the log from a position, again and again. There is no moment at which a
client changes from the one to the other, so there is none at which an event could be lost or come twice.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol, TypeVar

from ragchat.events import Event, Header, Transcript
from ragchat.logs.contract import Log
from ragchat.logs.tail import Batch


class Codec(Protocol):
    """How events are written for a client. A codec is a module of pure functions."""

    def encode(self, header: Header, events: Sequence[tuple[int, Event]]) -> list[tuple[int, bytes]]:
        """The frames for ``(seq, event)`` pairs, as ``(seq, json)``. Some events have no frame, some two."""
        ...


T = TypeVar("T", str, bytes)
Framing = Callable[[str, Sequence[tuple[int, bytes]]], tuple[T, ...]]
"""How a transport writes ``(seq, json)`` pairs of a run: what it hands to its connection, piece by piece."""


async def follow(log: Log, run_id: str, after: int, heartbeat: float) -> AsyncGenerator[Batch | None, None]:
    """A run's events behind the number ``after``, then live until its end.

    Yields:
        A `Batch` as soon as there are events, all of them at once for a reader that fell behind; None after
        each ``heartbeat`` seconds of silence.

    Raises:
        GoneError: the run's events are no longer kept.
    """
    tail = await log.tail(run_id)
    with tail.reader(after, heartbeat) as reader:
        while not reader.finished:
            yield await reader.next()


async def collect(log: Log, run_id: str) -> Transcript:
    """Wait for the end of a run and return all that it said.

    Raises:
        GoneError: the run's events are no longer kept.
    """
    transcript = Transcript()
    async with aclosing(follow(log, run_id, 0, heartbeat=3600)) as batches:
        async for batch in batches:
            if batch is not None:
                transcript.extend([event for _, event in batch.events])
    return transcript


def encoded(batch: Batch, codec: Codec, framing: Framing[T]) -> tuple[T, ...]:
    """``batch`` as a transport writes it; made once for all clients that are at the same place."""
    key = (codec, framing)
    pieces: tuple[T, ...] | None = batch.encoded.get(key)
    if pieces is None:
        pieces = framing(batch.header.run_id, codec.encode(batch.header, batch.events))
        batch.encoded[key] = pieces
    return pieces
