"""The end of one run's log as one process holds it, and everybody who reads there.

Readers pull: a reader asks for what comes after its position, and gets all of it at once or waits. There is
no queue per reader. Who reads slowly costs nothing and merely gets more per read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from ragchat.events import Done, Event, Header, join

MAX_BATCH = 1024
"""Events that one read returns at most, so that a long replay leaves the other readers their turn."""

MAX_SHARED = 16
"""Positions whose batch is kept to be shared; readers of a live run are at a few, a replay visits many."""


class Batch(msgspec.Struct, frozen=True, eq=False):
    """What a reader gets at once: ``(seq, event)`` pairs up to the number ``last``.

    Neighbouring tokens are joined; the joined event carries the number of the last one. Readers at the same
    position share one batch, and with it what has been made of it for the wire (``encoded``).
    """

    header: Header
    events: tuple[tuple[int, Event], ...]
    last: int
    encoded: dict[object, Any] = msgspec.field(default_factory=dict)


class Tail:
    """A run's events from the first to the last that this process knows of."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self._events: list[Event] = []
        self._batches: dict[int, Batch] = {}
        self._readers: set[Reader] = set()

    @property
    def last(self) -> int:
        """The number of the last event, 0 for an empty log."""
        return len(self._events)

    @property
    def ended(self) -> bool:
        """Whether the last event is the run's last event."""
        return bool(self._events) and isinstance(self._events[-1], Done)

    def extend(self, events: Sequence[Event]) -> int:
        """Take in the next events, wake all readers, and return the new last number."""
        self._events.extend(events)
        self._batches.clear()
        for reader in self._readers:
            reader._wake(grown=True)
        return len(self._events)

    def read(self, after: int) -> Batch | None:
        """What comes after ``after``, or None when nothing does yet."""
        if after >= len(self._events):
            return None
        batch = self._batches.get(after)
        if batch is None:
            if len(self._batches) >= MAX_SHARED:
                self._batches.clear()
            events = self._events[after : after + MAX_BATCH]
            batch = self._batches[after] = Batch(
                self.header,
                tuple([(after + 1 + index, event) for index, event in join(events)]),
                after + len(events),
            )
        return batch

    def reader(self, after: int, patience: float) -> Reader:
        """A reader that starts behind ``after`` and reports every ``patience`` seconds of silence."""
        return Reader(self, after, patience)


class Reader:
    """One follower's place in a `Tail`. Use it as a context manager: it owns a timer."""

    def __init__(self, tail: Tail, after: int, patience: float) -> None:
        self._tail = tail
        self._after = after
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[bool] | None = None
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._tail._readers.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tail._readers.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    @property
    def finished(self) -> bool:
        """Whether the run has ended and all of it was read."""
        return self._tail.ended and self._after >= self._tail.last

    async def next(self) -> Batch | None:
        """The next events as soon as there are any; None after ``patience`` seconds without."""
        while (batch := self._tail.read(self._after)) is None:
            if not await self._grown():
                return None
        self._after = batch.last
        return batch

    def _grown(self) -> asyncio.Future[bool]:
        """True when there is more to read, False when patience has run out."""
        # A future of its own for each reader: a shared one would be cancelled for all when one reader leaves.
        self._future = self._loop.create_future()
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._patience, self._ring)
        return self._future

    def _wake(self, *, grown: bool) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(grown)

    def _ring(self) -> None:
        # Armed once and moved on only when it rings: a timer per wait would cost more than the wait itself.
        rest = self._since + self._patience - self._loop.time()
        if rest > 0:
            self._timer = self._loop.call_later(rest, self._ring)
            return
        self._timer = None
        self._wake(grown=False)
