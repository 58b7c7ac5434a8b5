"""The client: whom to ask, as whom, and which way."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx

from ragchat.client.answer import Answer
from ragchat.client.exchange import Exchange
from ragchat.client.sse import EventExchange
from ragchat.client.websocket import SocketExchange

_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")


class Client:
    """Asks one service, as one user; an async context manager.

    Args:
        url: where the service is mounted, such as ``https://example.org/assistant``.
        token: an API token or a session JWT. It travels in the header ``Authorization`` only.

    Raises:
        ValueError: ``url`` is no address, or ``token`` can't be one.
    """

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a service; they look like http://127.0.0.1:8000.")
        if not (token.isascii() and token.isprintable()):
            raise ValueError("The token has characters that no token has. Copy it again.")
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            # A request that is cancelled early keeps its place in the pool for ever, so there is no last place.
            limits=httpx.Limits(max_connections=None),
            # A proxy named in the environment can't reach what listens on this machine only.
            mounts={f"all://{host}": None for host in _LOOPBACK},
        )
        self._answers: weakref.WeakSet[Answer] = weakref.WeakSet()
        self._sockets_pass = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def ask(
        self,
        question: str,
        chat_id: str = "default",
        session_id: str | None = None,
        *,
        kb_ids: Sequence[str] | None = None,
        doc_ids: Sequence[str] | None = None,
    ) -> Answer:
        """Ask a question; has to be called while an event loop runs.

        The question goes over a WebSocket, or over SSE where sockets do not get through.

        Args:
            question: what to ask.
            chat_id: whom to ask.
            session_id: the conversation that it belongs to; a new one when left out.
            kb_ids: the datasets that may be read; all of the chat's when left out.
            doc_ids: the documents that may be read; all of them when left out.

        Returns:
            The answer, on its way. What goes wrong is raised where it is iterated over.
        """
        fields: dict[str, Any] = {
            "chat_id": chat_id, "question": question, "session_id": session_id, "kb_ids": kb_ids,
            "doc_ids": doc_ids, "request_id": uuid.uuid4().hex,
        }  # fmt: skip
        request = {name: value for name, value in fields.items() if value is not None}
        exchanges: list[Exchange] = [EventExchange(self._http, request)]
        if self._sockets_pass:
            exchanges.insert(0, SocketExchange(self._http, request))
        answer = Answer(exchanges, self._remember_fallback)
        self._answers.add(answer)
        return answer

    async def close(self) -> None:
        """Stop following all answers and close all connections. The service goes on with the answers."""
        for answer in list(self._answers):
            await answer.close()
        await self._http.aclose()

    def _remember_fallback(self) -> None:
        self._sockets_pass = False
