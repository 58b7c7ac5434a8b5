"""Server-sent events: the completion route, for browsers' EventSource and for everyone behind a proxy.

The sibling of `ragchat.transports.websocket`; both iterate `ragchat.stream.follow` and hold no chat logic.
Framing as in the HTML standard, section 9.2, "Server-sent events".
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from quart import Response, request

from ragchat import stream
from ragchat.auth.identity import Access, Principal
from ragchat.codecs import ragflow
from ragchat.errors import (
    GoneError,
    RagChatError,
    RateLimitedError,
    RequestError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
)
from ragchat.events import Header
from ragchat.logs.contract import Log
from ragchat.runs.chat import ChatRuns
from ragchat.settings import Settings
from ragchat.transports.messages import ask_fields, parse_ask, parse_object

RETRY_MILLISECONDS = 2000
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


class Completion:
    """``GET`` and ``POST /v1/conversation/completion``."""

    def __init__(self, access: Access, log: Log, runs: ChatRuns, settings: Settings) -> None:
        self._access = access
        self._log = log
        self._runs = runs
        self._settings = settings

    async def respond(self) -> Response:
        """Answer the current request: start a run and stream it, or continue one.

        Raises:
            RagChatError: the request can't be answered; nothing was sent yet.
        """
        principal = await self._access.request()
        cursor = request.headers.get("Last-Event-ID") or request.args.get("last_event_id")
        if cursor:
            return await self._resume(principal, cursor)
        ask = parse_ask(await self._fields())
        header = await self._runs.ask(principal, ask)
        if ask.stream:
            return self._stream(header.run_id, 0)
        return await self._whole(header)

    async def _fields(self) -> dict[str, Any]:
        if request.method == "GET":
            if request.headers.get("Transfer-Encoding") or request.content_length:
                raise RequestError("A GET has no body here. Send the fields as query parameters, or use POST.")
            return ask_fields(request.args)
        return parse_object(await read_body(self._settings.max_message_bytes), self._settings.max_message_bytes)

    async def _resume(self, principal: Principal, cursor: str) -> Response:
        run_id, after = parse_cursor(cursor)
        run = await self._runs.find(principal, run_id)
        try:
            tail = await self._log.tail(run_id)
        except GoneError:
            if 0 < run.last_seq <= after:
                return Response(b"", status=204)
            raise
        if tail.ended and after >= tail.last:
            return Response(b"", status=204)
        if after > tail.last:
            raise RequestError(f"The run has {tail.last} events so far; there is none with the number {after}.")
        return self._stream(run_id, after)

    def _stream(self, run_id: str, after: int) -> Response:
        response = Response(self._body(run_id, after), headers=HEADERS)
        response.timeout = None  # Quart would cut the stream after a minute
        return response

    async def _body(self, run_id: str, after: int) -> AsyncGenerator[bytes, None]:
        # An id without data is remembered by EventSource but shown to nobody: from the first byte on, a reader
        # that is cut off continues this run and starts no other.
        yield f"retry: {RETRY_MILLISECONDS}\nid: {run_id}:{after}\n\n".encode()
        async with aclosing(stream.follow(self._log, run_id, after, self._settings.heartbeat)) as batches:
            async for batch in batches:
                if batch is None:
                    yield b": heartbeat\n\n"
                else:
                    for piece in stream.encoded(batch, ragflow, frame):
                        yield piece

    async def _whole(self, header: Header) -> Response:
        transcript = await stream.collect(self._log, header.run_id)
        status = transcript.error.code if transcript.error else 200
        return Response(ragflow.whole(header, transcript), status=status, content_type="application/json")


def frame(run_id: str, frames: Sequence[tuple[int, bytes]]) -> tuple[bytes, ...]:
    """Frames as one piece of an event stream, each with its ``id: <run_id>:<seq>``."""
    if not frames:
        return ()
    prefix = b"id: " + run_id.encode() + b":"
    return (b"".join([b"%b%d\ndata: %b\n\n" % (prefix, seq, json) for seq, json in frames]),)


def parse_cursor(cursor: str) -> tuple[str, int]:
    """``<run_id>:<seq>`` as a pair.

    Raises:
        RequestError: it is not of that form.
    """
    run_id, _, seq = cursor.rpartition(":")
    if not run_id or not seq.isascii() or not seq.isdigit() or len(seq) > 9:
        raise RequestError("The last event id must be of the form `<run_id>:<seq>`, as the stream sent it.")
    return run_id, int(seq)


async def read_body(limit: int) -> bytes:
    """The current request's body, counted while it is read (a chunked one does not say its length before).

    Raises:
        TooLargeError: it has more than ``limit`` bytes.
    """
    body = bytearray()
    async for data in request.body:
        body += data
        if len(body) > limit:
            raise TooLargeError(f"The body is larger than {limit} bytes. Send less at once.")
    return bytes(body)


def error_response(error: RagChatError) -> Response:
    """An error before the first byte: RAGFlow's envelope under the right HTTP status."""
    body = ragflow.error(error.code, str(error))
    response = Response(body, status=error.code, content_type="application/json")
    if isinstance(error, UnauthenticatedError):
        response.headers["WWW-Authenticate"] = 'Bearer realm="ragchat"'
    if isinstance(error, (RateLimitedError, UnavailableError)):
        response.headers["Retry-After"] = str(max(1, round(error.retry_after or 1)))
    return response
