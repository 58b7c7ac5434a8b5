"""Writes one run's events into its log: in order, joined, and off the path of whoever produces them."""

from __future__ import annotations

import asyncio

from ragchat.events import Event, Header, Order, Transcript, join
from ragchat.logs.contract import Log

_MAX_PENDING = 512
"""Events that may wait for the log before the producer has to wait too."""


class Writer:
    """The only writer of one run's log.

    The first event goes to the log at once. Whatever comes while an append is under way is joined into the
    next one: a burst costs one append, and a slow log makes fewer, larger ones.
    """

    def __init__(self, log: Log, header: Header) -> None:
        self._log = log
        self._header = header
        self._order = Order()
        self._pending: list[Event] = []
        self._idle: asyncio.Future[None] | None = None  # a bare future: an Event costs twice as much per token
        self._flushed = asyncio.Event()
        self._error: Exception | None = None
        self._task = asyncio.create_task(self._append())
        self.transcript = Transcript()
        self.last = 0
        """The number of the last event that is in the log."""

    async def put(self, event: Event) -> None:
        """Write ``event`` soon. Returns at once unless the log is far behind.

        Raises:
            OutOfOrderError: the event may not come here.
            FencedError: somebody else writes this run's log.
        """
        self._order.advance(event)
        self.transcript.apply(event)
        self._pending.append(event)
        if self._idle is not None:
            self._idle.set_result(None)
            self._idle = None
        if len(self._pending) >= _MAX_PENDING or self._error is not None:
            await self.flush()

    async def flush(self) -> None:
        """Wait until all that was put is in the log.

        Raises:
            FencedError: somebody else writes this run's log.
        """
        while self._error is None and self._idle is None:
            self._flushed.clear()
            await self._flushed.wait()
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """Stop writing; what was not flushed is dropped."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _append(self) -> None:
        try:
            while True:
                if not self._pending:
                    self._flushed.set()
                    self._idle = asyncio.get_running_loop().create_future()
                    await self._idle
                events = [event for _, event in join(self._pending)]
                self._pending = []
                self.last = await self._log.append(self._header.run_id, events, after=self.last)
        except Exception as error:  # whatever a log raises, whoever waits for it has to hear of it
            self._error = error
            self._flushed.set()
