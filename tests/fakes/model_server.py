"""A model's server whose every move is scripted: real TCP on loopback, no model and no clock behind it.

    async with ModelServer() as server:
        server.script(sse('{"choices":…}'), gate, sse("[DONE]"))
        …                                       # point a backend at server.base_url
        gate.set()
        await server.closed(0)                  # until the client has closed the first connection

A script is what happens to one request, step by step; requests take the scripts in order, and the last one
serves all later requests too.
"""

from __future__ import annotations

import asyncio
import enum
import json
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast


class Act(enum.Enum):
    """What a server can do other than send bytes."""

    HEADERS = "send the status line and the headers now; otherwise they go out with the first bytes"
    HANG = "do nothing until the client closes the connection"
    COMMENTS = "send nothing but keep-alive comments until the client closes the connection"
    CUT = "close the connection, whatever was announced"
    RESET = "reset the connection"


Step = bytes | asyncio.Event | Act
"""Bytes go out as they are cut; an event is waited for."""


@dataclass(frozen=True)
class Script:
    """Answers one request. Without ``raw`` the body is framed by chunks; with it the steps are all there is."""

    steps: tuple[Step, ...]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bool = False

    def head(self) -> bytes:
        headers = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked", **self.headers}
        lines = [f"HTTP/1.1 {self.status} Scripted", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode()


@dataclass(frozen=True)
class Request:
    """What a client sent; ``connection`` numbers the connections in the order they came."""

    connection: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def sse(*messages: str) -> bytes:
    """Each message as a server-sent event."""
    return "".join(f"data: {message}\n\n" for message in messages).encode()


def delta(text: str, **choice: Any) -> str:
    """A chunk of a chat completion that brings ``text``."""
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}, **choice}]}, ensure_ascii=False)


class ModelServer:
    """Serves scripts, and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections: list[_Connection] = []
        self._scripts: list[Script] = []
        self._changed = asyncio.Condition()
        self._notices: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for connection in self.connections:
            connection.drop()
        await self.left_alone()
        await asyncio.gather(*self._notices)
        await self._server.wait_closed()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return sum(not connection.closed for connection in self.connections)

    def script(
        self, *steps: Step, status: int = 200, headers: Mapping[str, str] | None = None, raw: bool = False
    ) -> None:
        """Add the answer to one more request."""
        self._scripts.append(Script(steps, status, headers or {}, raw))

    def only(
        self, *steps: Step, status: int = 200, headers: Mapping[str, str] | None = None, raw: bool = False
    ) -> None:
        """Forget the scripts there are; answer all requests from now on like this."""
        self._scripts.clear()
        self.script(*steps, status=status, headers=headers, raw=raw)

    async def connected(self, count: int = 1) -> None:
        """Wait until so many connections have come."""
        await self._until(lambda: len(self.connections) >= count)

    async def received(self, count: int = 1) -> None:
        """Wait until so many requests have come."""
        await self._until(lambda: len(self.requests) >= count)

    async def closed(self, connection: int) -> None:
        """Wait until the client has closed that connection."""
        await self._until(lambda: self.connections[connection].closed_by_client)

    async def left_alone(self) -> None:
        """Wait until there is no connection."""
        await self._until(lambda: not self.open)

    def accept(self, request: Request) -> Script:
        self.requests.append(request)
        self.notify()
        return self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]

    def notify(self) -> None:
        task = asyncio.ensure_future(self._notify())
        self._notices.add(task)
        task.add_done_callback(self._notices.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)


class _Connection(asyncio.Protocol):
    _transport: asyncio.Transport

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._received = b""
        self._player: asyncio.Task[None] | None = None
        self._dropped = False
        self.closed = False

    @property
    def closed_by_client(self) -> bool:
        return self.closed and not self._dropped

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._number = len(self._server.connections)
        self._server.connections.append(self)
        self._server.notify()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._player is None and (request := self._next_request()):
            self._player = asyncio.ensure_future(self._play(self._server.accept(request)))

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._player is not None:
            self._player.cancel()
        self._server.notify()

    def drop(self) -> None:
        """Close from this side."""
        self._dropped = self._dropped or not self.closed
        self._transport.abort()

    def _next_request(self) -> Request | None:
        head, complete, body = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", 0))
        if not complete or len(body) < length:
            return None
        self._received = body[length:]
        method, path, _ = first.split(" ")
        return Request(self._number, method, path, headers, body[:length])

    async def _play(self, script: Script) -> None:
        head = b"" if script.raw else script.head()
        for step in script.steps:
            match step:
                case bytes():
                    self._transport.write(head + (step if script.raw else _framed(step)))
                    head = b""
                case asyncio.Event():
                    await step.wait()
                case Act.HEADERS:
                    self._transport.write(head)
                    head = b""
                case Act.HANG:
                    await asyncio.Event().wait()
                case Act.COMMENTS:
                    self._transport.write(head)
                    while True:
                        self._transport.write(_framed(b": keep-alive\n\n"))
                        await asyncio.sleep(0.01)
                case Act.CUT:
                    self._dropped = True
                    self._transport.close()
                    return
                case Act.RESET:
                    linger = struct.pack("ii", 1, 0)
                    self._transport.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, linger
                    )
                    self.drop()
                    return
        if not script.raw:
            self._transport.write(head + b"0\r\n\r\n")
        self._player = None
        self.data_received(b"")


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""  # an empty chunk would be the end
