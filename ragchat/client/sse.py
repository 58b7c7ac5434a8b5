"""A question over server-sent events. The sibling of `ragchat.client.websocket`.

A stream that is cut is continued: every message says which event of which run it was, so the request is
repeated with the header ``Last-Event-ID`` and the service goes on from there (docs/protocol.md, "Continue an
interrupted answer").
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

import httpx

from ragchat.client.errors import NetworkError
from ragchat.client.exchange import Deliver
from ragchat.client.frames import denial, parse
from ragchat.sse import MessageReader, MessageTooLongError

PATH: Final = "v1/conversation/completion"
_TIMEOUT: Final = httpx.Timeout(10, read=75, pool=None)
"""Seconds. The service is never silent for longer than its heartbeat, which is 60 at most."""
_HEADERS: Final = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
_ATTEMPTS: Final = 8
"""How often in a row a cut stream is asked for again without getting anything new."""
_FIRST_PAUSE: Final = 0.25
_LONGEST_PAUSE: Final = 10.0
_TRANSIENT: Final = frozenset({502, 503, 504})
"""A service that is being restarted, or the proxy before it."""


class EventExchange:
    """One question, and as many requests as its answer takes.

    Args:
        http: whom to ask.
        question: the fields of the request.
    """

    def __init__(self, http: httpx.AsyncClient, question: dict[str, Any]) -> None:
        self._http = http
        self._where = str(http.base_url.join(PATH))
        self._question = question
        self._cursor = ""
        self._failures = 0
        self._cancelled = False

    @property
    def run_id(self) -> str | None:
        """The run that answers, as soon as the stream has begun."""
        return self._cursor.rpartition(":")[0] or None

    async def talk(self, deliver: Deliver) -> None:
        while True:
            try:
                if await self._read(deliver):
                    return
                reason = "it ended before the answer did"
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
            await self._pause(reason)

    async def cancel(self) -> None:
        self._cancelled = True
        if self.run_id:
            await self._send_cancel()

    async def _read(self, deliver: Deliver) -> bool:
        """Make one request and deliver what it brings; True when the answer is complete."""
        headers = {**_HEADERS, **({"Last-Event-ID": self._cursor} if self._cursor else {})}
        request = self._http.stream("POST", PATH, json=self._question, headers=headers, timeout=_TIMEOUT)
        async with request as response:
            if self._cursor and response.status_code in _TRANSIENT:
                return False
            if not response.is_success:
                raise denial(response.status_code, await response.aread(), self._where)
            reader = MessageReader()
            async for data in response.aiter_raw():
                complete = self._deliver(reader, data, deliver)
                await self._advance(reader.last_event_id)
                if complete:
                    return True
        return False

    def _deliver(self, reader: MessageReader, data: bytes, deliver: Deliver) -> bool:
        try:
            for message in reader.feed(data):
                frame = parse(message.data, self._where)
                deliver(frame)
                if frame.last:
                    return True
        except MessageTooLongError as error:
            raise NetworkError(f"{self._where} sent a message that is too long to be one of ours.") from error
        return False

    async def _advance(self, cursor: str) -> None:
        if cursor in ("", self._cursor):
            return
        begun, self._cursor, self._failures = bool(self._cursor), cursor, 0
        if self._cancelled and not begun:
            await self._send_cancel()

    async def _pause(self, reason: str) -> None:
        """Wait before the next attempt: longer each time, and never in step with other clients."""
        if not self._cursor:
            raise NetworkError(
                f"No answer from {self._where}: {reason}. Is the address right, and the service up?"
            )
        self._failures += 1
        if self._failures > _ATTEMPTS:
            raise NetworkError(
                f"The connection to {self._where} was lost, and {_ATTEMPTS} attempts to continue the answer "
                f"failed, the last one with: {reason}. The service goes on with it; look at the session later."
            )
        longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**self._failures)
        await asyncio.sleep(random.uniform(0, longest))  # noqa: S311  # no secret

    async def _send_cancel(self) -> None:
        path = f"api/v1/runs/{self.run_id}/cancel"
        try:
            response = await self._http.post(path, timeout=_TIMEOUT)
        except httpx.TransportError as error:
            raise NetworkError(f"Can't tell {self._where} to stop: {error}. Try again.") from error
        if not response.is_success:
            raise denial(response.status_code, response.content, self._where)
