"""The chat socket. The sibling of `ragchat.transports.sse`; both iterate `ragchat.stream.follow`.

A socket has two tasks. One *receives*: it reads every message at once, because Quart's inbound queue has no
bound, obeys ``cancel`` and ``ping``, and lines questions up. The other *answers* the questions one after the
other, because frames of RAGFlow's codec do not say which question they belong to. Neither owns the answer: when
the peer leaves, both end and the run goes on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import quart.wrappers
import structlog
from quart import abort, websocket
from quart.wrappers import Websocket

from ragchat import stream
from ragchat.auth.identity import Access, Principal, seconds_left
from ragchat.codecs import ragflow
from ragchat.errors import (
    DrainingError,
    RagChatError,
    RateLimitedError,
    RequestError,
    TooLargeError,
)
from ragchat.events import Header
from ragchat.logs.contract import Log
from ragchat.runs.chat import Ask, ChatRuns
from ragchat.settings import Settings
from ragchat.transports.messages import MESSAGE_TYPES, parse_ask, parse_object

logger = structlog.get_logger(__name__)

_LEFT: tuple[type[Exception], ...] = (
    # From 0.23 on Quart says so when the peer leaves; before, it only cancels the handler.
    (quart.wrappers.ClientDisconnectedError,) if hasattr(quart.wrappers, "ClientDisconnectedError") else ()
)

PONG = '{"type":"pong"}'
MAX_REASON = 40
"""Characters of a close reason: it has room for 123 bytes, and a Chinese character takes three."""


class ChatSocket:
    """One client's connection to ``/v1/ws/chat``, after it was authenticated and accepted.

    Args:
        draining: set when the server is going away.
    """

    def __init__(
        self, principal: Principal, log: Log, runs: ChatRuns, settings: Settings, draining: asyncio.Event
    ) -> None:
        self._socket: Websocket = websocket._get_current_object()  # type: ignore[attr-defined]  # the proxy costs a look-up per frame
        self._principal = principal
        self._log = log
        self._runs = runs
        self._settings = settings
        self._draining = draining
        self._questions: deque[Ask] = deque()
        self._asked = asyncio.Event()
        self._newest: str | None = None
        self._starting = False
        self._following = False
        self._cancel_next = False

    async def serve(self) -> None:
        """Talk until the peer leaves, the server goes away, or the credentials run out; then close."""
        receiver = asyncio.create_task(self._receive())
        answerer = asyncio.create_task(self._answer())
        try:
            left = seconds_left(self._principal)
            done, _ = await asyncio.wait({receiver, answerer}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                await self._socket.close(1008, "The session token has expired.")
            for task in done:
                await self._explain(task)
        finally:
            receiver.cancel()
            answerer.cancel()

    async def _explain(self, task: asyncio.Task[None]) -> None:
        """Close the socket for the reason for which one of its tasks ended."""
        if task.cancelled():
            return
        failure = task.exception()
        if isinstance(failure, RagChatError):
            if not isinstance(failure, DrainingError):
                await self._send_error(failure)
            await self._socket.close(failure.close_code, str(failure)[:MAX_REASON])
        elif failure is not None and not isinstance(failure, _LEFT):
            logger.error("socket failed", exc_info=failure)
            await self._socket.close(1011, "This is a defect; the server's log tells more.")

    async def _receive(self) -> None:
        while True:
            message: Any = await self._socket.receive()
            try:
                await self._handle(message)
            except (TooLargeError, RateLimitedError):
                raise
            except RequestError as error:
                await self._send_error(error)

    async def _handle(self, message: Any) -> None:
        if not isinstance(message, str):
            raise RequestError("Binary messages are not understood here. Send JSON as text.")
        fields = parse_object(message, self._settings.max_message_bytes)
        kind = fields.get("type", "chat")
        if kind == "ping":
            await self._socket.send(PONG)
        elif kind == "cancel":
            await self._cancel(fields.get("run_id"))
        elif kind == "chat":
            self._line_up(parse_ask(fields))
        else:
            raise RequestError(f"The type {kind!r} is not known. Known are {', '.join(MESSAGE_TYPES)}.")

    def _line_up(self, ask: Ask) -> None:
        if len(self._questions) >= self._settings.max_pending_messages:
            raise RateLimitedError(f"More than {len(self._questions)} questions are waiting on this connection.")
        self._questions.append(ask)
        self._asked.set()

    async def _cancel(self, run_id: object) -> None:
        if run_id is None:
            if self._starting or (self._questions and not self._following):
                self._cancel_next = True  # it came before the run that it is meant for
                return
            run_id = self._newest
        if isinstance(run_id, str):
            await self._runs.stop(self._principal, run_id)
        elif run_id is not None:
            raise RequestError("The field `run_id` must be a string.")

    async def _answer(self) -> None:
        draining = asyncio.create_task(self._draining.wait())
        try:
            while True:
                asked = asyncio.create_task(self._asked.wait())
                await asyncio.wait({asked, draining}, return_when=asyncio.FIRST_COMPLETED)
                asked.cancel()
                while self._questions:
                    await self._answer_one(self._questions.popleft())
                self._asked.clear()
                if draining.done():
                    raise DrainingError("This server is being restarted. Connect again.")
        finally:
            draining.cancel()

    async def _answer_one(self, ask: Ask) -> None:
        self._starting = True
        try:
            header = await self._runs.ask(self._principal, ask)
        except RagChatError as error:
            await self._send_error(error)
            return
        finally:
            self._starting = False
            cancelled, self._cancel_next = self._cancel_next, False
        self._newest = header.run_id
        if cancelled:
            await self._runs.stop(self._principal, header.run_id)
        self._following = True
        if ask.stream:
            await self._follow(header.run_id)
        else:
            await self._send_whole(header)
        self._following = False

    async def _follow(self, run_id: str) -> None:
        # Quart's public `send` gives way to the loop and accepts again before each frame, which costs more than
        # all that we do for it. We wait for the log between batches anyway.
        send = self._socket._send
        async for batch in stream.follow(self._log, run_id, 0, self._settings.heartbeat):
            if batch is not None:
                for piece in stream.encoded(batch, ragflow, frame):
                    await send(piece)

    async def _send_whole(self, header: Header) -> None:
        transcript = await stream.collect(self._log, header.run_id)
        await self._socket.send(ragflow.whole(header, transcript).decode())
        await self._socket.send(ragflow.MARKER.decode())

    async def _send_error(self, error: RagChatError) -> None:
        await self._socket.send(ragflow.error(error.code, str(error)).decode())


def frame(_run_id: str, frames: Sequence[tuple[int, bytes]]) -> tuple[str, ...]:
    """Frames as text messages."""
    return tuple([json.decode() for _, json in frames])


class ChatSocketRoute:
    """``WS /v1/ws/chat``: lets a client in and hands it to a `ChatSocket`."""

    def __init__(
        self, access: Access, log: Log, runs: ChatRuns, settings: Settings, draining: asyncio.Event
    ) -> None:
        self._access = access
        self._log = log
        self._runs = runs
        self._settings = settings
        self._draining = draining

    async def serve(self) -> None:
        """Authenticate before a message is read, then talk."""
        if websocket.requested_subprotocols:
            abort(400, "None of the subprotocols that were offered is spoken here.")
        try:
            principal = await self._access.socket()
            if self._draining.is_set():
                raise DrainingError("This server is being restarted. Connect again.")
        except Exception as error:
            await _refuse(error)
            return
        await websocket.accept()
        await ChatSocket(principal, self._log, self._runs, self._settings, self._draining).serve()


async def _refuse(failure: Exception) -> None:
    """Accept the current socket only to say why it is closed: a browser sees nothing of a denial."""
    if not isinstance(failure, RagChatError):
        logger.error("socket could not be opened", exc_info=failure)
        failure = RagChatError("This is a defect; the server's log tells more.")
    await websocket.accept()
    await websocket.send(ragflow.error(failure.code, str(failure)).decode())
    await websocket.close(failure.close_code, str(failure)[:MAX_REASON])
