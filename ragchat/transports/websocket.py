"""The chat socket. The sibling of `ragchat.transports.sse`; both iterate `ragchat.stream.follow`.

A socket has four tasks, and ends with the first of them:

    fill     reads every message at once, because Quart's own inbound queue has no bound, into one that has
    obey     takes them from there: answers ``ping``, obeys ``cancel``, explains mistakes, lines questions up
    answer   answers the questions one after the other, because frames of RAGFlow's codec do not say which
             question they belong to
    leave    says goodbye when the server goes away and everything has been answered

None of them owns the answer: when the peer leaves, they end and the run goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NoReturn

import msgspec
import quart.wrappers
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

logger = logging.getLogger(__name__)

_LEFT: tuple[type[Exception], ...] = (
    # From 0.23 on Quart says so when the peer leaves; before, it only cancels the handler.
    (quart.wrappers.ClientDisconnectedError,) if hasattr(quart.wrappers, "ClientDisconnectedError") else ()
)

_LAST_WORDS = 0.05
"""Seconds that a peer which floods us gets to take in why its socket is closed."""

_WAITING = 4
"""Messages of the largest size that may wait on one socket; of smaller ones correspondingly more."""

_MESSAGE_OVERHEAD = 64
"""What a message costs beside its characters."""

_ECHO_BYTES = 256 * 1024
"""What may wait for its echo on a health socket."""

PONG = '{"type":"pong"}'
MAX_REASON = 40
"""Characters of a close reason: it has room for 123 bytes, and a Chinese character takes three."""


class Inbox:
    """Messages of the current socket that wait to be handled.

    Args:
        limit: how many bytes of them may wait.
    """

    def __init__(self, limit: int) -> None:
        self._socket: Websocket = websocket._get_current_object()  # type: ignore[attr-defined]
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self._limit = limit
        self._size = 0

    async def fill(self) -> None:
        """Read messages until the peer leaves.

        Raises:
            RateLimitedError: it sends faster than they are handled.
        """
        while True:
            message: Any = await self._socket.receive()
            self._size += _weight(message)
            if self._size > self._limit:
                raise RateLimitedError(
                    "Too many messages wait on this connection. Wait for answers before you send more."
                )
            self._messages.put_nowait(message)

    async def next(self) -> Any:
        """The next message, as soon as there is one: a text, bytes, or None for an empty binary message."""
        message = await self._messages.get()
        self._size -= _weight(message)
        return message


def _weight(message: str | bytes | None) -> int:
    return _MESSAGE_OVERHEAD + len(message or "")


class ChatSocket:
    """One client's connection to ``/v1/ws/chat``, after it was authenticated and accepted.

    Args:
        draining: set when the server is going away.
    """

    def __init__(
        self, principal: Principal, log: Log, runs: ChatRuns, settings: Settings, draining: asyncio.Event
    ) -> None:
        # the proxy would cost a look-up per frame
        self._socket: Websocket = websocket._get_current_object()  # type: ignore[attr-defined]
        self._principal = principal
        self._log = log
        self._runs = runs
        self._settings = settings
        self._draining = draining
        self._inbox = Inbox(_WAITING * settings.max_message_bytes)
        self._questions: asyncio.Queue[Ask] = asyncio.Queue(settings.max_pending_questions)
        self._newest: str | None = None
        self._starting = False
        self._following = False
        self._cancel_next = False

    async def serve(self) -> None:
        """Talk until the peer leaves, the server goes away, or the credentials run out; then close."""
        tasks = [
            asyncio.create_task(work) for work in (self._inbox.fill(), self._obey(), self._answer(), self._leave())
        ]
        try:
            left = seconds_left(self._principal)
            done, _ = await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                await self._socket.close(1008, "The session token has expired.")
            for task in done:
                await self._explain(task)
        finally:
            for task in tasks:
                task.cancel()

    async def _explain(self, task: asyncio.Task[None]) -> None:
        """Close the socket for the reason for which one of its tasks ended."""
        if task.cancelled():
            return
        failure = task.exception()
        if isinstance(failure, RateLimitedError):
            await _cut_off(self._socket, failure)
        elif isinstance(failure, RagChatError):
            if not isinstance(failure, DrainingError):
                await self._send_error(failure)
            await self._socket.close(failure.close_code, str(failure)[:MAX_REASON])
        elif failure is not None and not isinstance(failure, _LEFT):
            logger.error("socket failed", exc_info=failure)
            await self._socket.close(1011, "This is a defect; the server's log tells more.")

    async def _obey(self) -> None:
        while True:
            message = await self._inbox.next()
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
        if self._questions.full():
            raise RateLimitedError(f"More than {self._questions.maxsize} questions wait on this connection.")
        self._questions.put_nowait(ask)

    async def _cancel(self, run_id: object) -> None:
        if run_id is None:
            if self._starting or not (self._following or self._questions.empty()):
                self._cancel_next = True  # it came before the run that it is meant for
                return
            run_id = self._newest
        if isinstance(run_id, str):
            await self._runs.stop(self._principal, run_id)
        elif run_id is not None:
            raise RequestError("The field `run_id` must be a string.")

    async def _answer(self) -> None:
        while True:
            ask = await self._questions.get()
            await self._answer_one(ask)
            self._questions.task_done()

    async def _leave(self) -> None:
        await self._draining.wait()
        await self._questions.join()
        raise DrainingError("This server is being restarted. Connect again.")

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
        async with aclosing(stream.follow(self._log, run_id, 0, self._settings.heartbeat)) as batches:
            async for batch in batches:
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
        if not self._access.allows_origin(websocket):
            abort(403, "Pages of this origin may not connect.")
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


async def _cut_off(socket: Websocket, error: RateLimitedError) -> NoReturn:
    """Close a socket whose peer sends without end.

    A peer that does not read is not waited for, because meanwhile Quart would take in what it sends. For the
    same reason the handler must not simply return: Quart would then wait to send a close of its own. Only a
    cancelled one ends the reading too.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORDS):
            await socket.send(ragflow.error(error.code, str(error)).decode())
            await socket.close(error.close_code, str(error)[:MAX_REASON])
    raise asyncio.CancelledError


async def serve_health() -> None:
    """``WS /v1/ws/health``: say that all is well, then answer each text with itself and the time."""
    await websocket.accept()
    inbox = Inbox(_ECHO_BYTES)
    tasks = [asyncio.create_task(inbox.fill()), asyncio.create_task(_echo(inbox))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if isinstance(failure := task.exception(), RateLimitedError):
                await _cut_off(websocket._get_current_object(), failure)  # type: ignore[attr-defined]
    finally:
        for task in tasks:
            task.cancel()


async def _echo(inbox: Inbox) -> None:
    hello = {"status": "healthy", "message": "ragchat is listening", "version": version("ragchat")}
    await websocket.send(msgspec.json.encode(hello).decode())
    while True:
        text = await inbox.next()
        if isinstance(text, str):
            echo = {"echo": text, "timestamp": datetime.now(UTC).isoformat()}
            await websocket.send(msgspec.json.encode(echo).decode())
