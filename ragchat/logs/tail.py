"""The end of one run's log as one process holds it, and everybody who reads there.

Readers pull: a reader asks for what comes after its position and gets all of it at once, or waits. There is
no queue per reader, so who reads slowly costs nothing and merely gets more per read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from ragchat.errors import FencedError, GoneError
from ragchat.events import Done, Event, Header, join

MAX_BATCH = 1024
"""Events that one read returns at most, so that a long replay leaves the others their turn."""


class Batch(msgspec.Struct, frozen=True):
    """Events ``first`` to ``last`` of a run, as ``(seq, event)``; joined tokens carry the last one's number.

    Readers at the same position share one batch, and with it the frames that a codec made of it.
    """

    header: Header
    first: int
    last: int
    events: tuple[tuple[int, Event], ...]
    ended: bool
    frames: dict[str, tuple[bytes | str, ...]] = msgspec.field(default_factory=dict)


class Tail:
    """Events of one run, from the first that is still held to the last that is known.

    Args:
        header: what the run is.
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self.ended = False
        self._events: list[Event] = []
        self._waiters: set[asyncio.Future[bool]] = set()
        self._batches: dict[int, Batch] = {}
