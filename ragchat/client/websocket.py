"""A question over WebSocket. The sibling of `ragchat.client.sse`.

Many networks let a socket be opened and nothing through it. So the first message is a ``ping``: only when its
``pong`` has come back is the question sent. Before that, the question can safely go another way; after that it
is never sent twice.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import httpx
import msgspec
from httpx_ws import (
    AsyncWebSocketClient,
    AsyncWebSocketSession,
    HTTPXWSException,
    WebSocketDisconnect,
    WebSocketUpgradeError,
)
from wsproto.utilities import ProtocolError

from ragchat.client.errors import ChatError, NetworkError, UnusableError
from ragchat.client.exchange import Deliver
from ragchat.client.frames import parse

PATH: Final = "v1/ws/chat"
_PATIENCE: Final = 2.0
"""Seconds for each step of opening: to connect, to be upgraded, to get the first message back."""
_PING: Final = '{"type":"ping"}'
_SAME_OVER_HTTP: Final = frozenset({401, 403, 429})
"""A refusal of these kinds is meant for us and not for the transport."""
_FAILURES: Final = (HTTPXWSException, httpx.TransportError, ProtocolError, TimeoutError)


class SocketExchange:
    """One question over a socket of its own.

    Args:
        http: whom to ask.
        question: the fields of the request.
    """

    run_id = None

    def __init__(self, http: httpx.AsyncClient, question: dict[str, Any]) -> None:
        self._http = http
        self._where = str(http.base_url.join(PATH))
        self._question = question
        self._session: AsyncWebSocketSession | None = None
        self._asked = False
        self._cancelled = False

    async def talk(self, deliver: Deliver) -> None:
        sockets = AsyncWebSocketClient(self._http, session_class=AsyncWebSocketSession)
        try:
            async with sockets.connect(PATH, timeout=httpx.Timeout(_PATIENCE, pool=None)) as session:
                await self._converse(session, deliver)
        except Exception as error:
            cause = _cause(error)
            if isinstance(cause, _FAILURES):
                raise self._translated(cause) from error
            raise cause from None

    async def cancel(self) -> None:
        self._cancelled = True
        if self._asked and self._session is not None:
            await self._send_cancel(self._session)

    async def _converse(self, session: AsyncWebSocketSession, deliver: Deliver) -> None:
        await session.send_text(_PING)
        text = await session.receive_text(timeout=_PATIENCE)
        if _is_pong(text):
            await self._ask(session)
            text = await session.receive_text()
        while True:
            frame = parse(text, self._where)
            deliver(frame)
            if frame.last:
                return
            text = await session.receive_text()

    async def _ask(self, session: AsyncWebSocketSession) -> None:
        self._asked = True
        await session.send_text(msgspec.json.encode(self._question).decode())
        self._session = session
        if self._cancelled:
            await self._send_cancel(session)

    async def _send_cancel(self, session: AsyncWebSocketSession) -> None:
        with contextlib.suppress(HTTPXWSException, ProtocolError):  # a dead socket is the reader's news
            await session.send_text('{"type":"cancel"}')

    def _translated(self, error: Exception) -> Exception:
        if self._asked:
            return NetworkError(
                f"The connection to {self._where} was lost in the middle of the answer{_reason(error)}. "
                "The service goes on with it; ask again to begin a new one."
            )
        if isinstance(error, WebSocketUpgradeError) and error.response.status_code in _SAME_OVER_HTTP:
            status = error.response.status_code
            return ChatError(status, f"{self._where} refuses this client with HTTP {status}. Check the token.")
        return UnusableError(f"{self._where}{_reason(error)}")


def _is_pong(text: str) -> bool:
    try:
        message = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return False
    return isinstance(message, dict) and message.get("type") == "pong"


def _cause(error: Exception) -> Exception:
    """What went wrong, without the groups that a task group puts around it."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _reason(error: Exception) -> str:
    if isinstance(error, WebSocketDisconnect):
        return f" (close code {error.code}{': ' if error.reason else ''}{error.reason})"
    text = str(error)
    return f" ({text})" if text else ""
