"""The log of one process: the embedded default. Nothing is written down, so a restart forgets it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ragchat.errors import FencedError, GoneError
from ragchat.events import Done, Event, Header
from ragchat.logs.tail import Tail


class MemoryLog:
    """Keeps every run's events in a `Tail`; keeps `ragchat.logs.contract.Log`.

    Args:
        retention: seconds for which a finished run's events stay readable.
    """

    def __init__(self, retention: float) -> None:
        self._retention = retention
        self._tails: dict[str, Tail] = {}
        self._expiries: dict[str, asyncio.TimerHandle] = {}

    async def create(self, header: Header) -> None:
        if header.run_id in self._tails:
            raise FencedError(f"The run {header.run_id} has a log already.")
        self._tails[header.run_id] = Tail(header)

    async def append(self, run_id: str, events: Sequence[Event], *, after: int) -> int:
        tail = self._tail(run_id)
        if tail.ended or tail.last != after:
            raise FencedError(f"The log of the run {run_id} has moved on to {tail.last}; expected {after}.")
        last = tail.extend(events)
        if isinstance(events[-1], Done):
            loop = asyncio.get_running_loop()
            self._expiries[run_id] = loop.call_later(self._retention, self._forget, run_id)
        return last

    async def tail(self, run_id: str) -> Tail:
        return self._tail(run_id)

    def _tail(self, run_id: str) -> Tail:
        try:
            return self._tails[run_id]
        except KeyError:
            raise GoneError(
                f"The events of the run {run_id} are no longer kept. "
                "If it was completed, its message is in the session."
            ) from None

    async def close(self) -> None:
        for expiry in self._expiries.values():
            expiry.cancel()
        self._expiries.clear()
        self._tails.clear()

    def _forget(self, run_id: str) -> None:
        del self._tails[run_id], self._expiries[run_id]
