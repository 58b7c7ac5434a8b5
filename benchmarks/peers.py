"""The servers that benchmarks/streaming.py compares, each in a process of its own, on one and the same model.

The peers are loops as their frameworks' documentation shows them: take a question, and send a frame for every
token of the model. Their frames are ragchat's, byte for byte except for the ids, and so is their encoder.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

import hypercorn.asyncio
import msgspec
import quart
import uvicorn
import uvloop
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from hypercorn.config import Config

from ragchat import server
from ragchat.app import create_app
from ragchat.auth.identity import Principal
from ragchat.backends.contract import Finish, Prompt
from ragchat.blueprint import RagChat
from ragchat.events import Passage, Token
from ragchat.rag.contract import Query
from ragchat.settings import load
from ragchat.telemetry.logs import configure

SOCKET = "/v1/ws/chat"
EVENTS = "/v1/conversation/completion"
EVENT_STREAM = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache, no-transform"}
BACKLOG = 4096


class Plan(NamedTuple):
    """What a stream gets behind its first token: ``reads`` at a pace, and then ``flood`` more without a pause.

    A read is what the model's server sends at once: ``burst`` tokens.
    """

    interval: float
    burst: int
    reads: int
    flood: int

    @property
    def paced(self) -> int:
        """Tokens of a stream until the flood."""
        return 1 + self.burst * self.reads

    @property
    def total(self) -> int:
        """Tokens of a stream."""
        return self.paced + self.burst * self.flood


class Performance:
    """Speaks to many streams in step, so that it costs every server the same, and next to nothing.

    A token is ``@`` and when it was due, in nanoseconds of the clock that all processes share.
    """

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._tokens: list[str] = []
        self._waiting: list[asyncio.Future[None]] = []

    async def reads(self) -> AsyncGenerator[list[str], None]:
        """One stream: a token at once, to show that it is there, and the others when the plan is known."""
        yield ["@0 "]
        while self._plan is None:
            await self._change()
        plan = self._plan
        for number in range(plan.reads):
            yield [await self._token(number)] * plan.burst
        token = await self._token(plan.reads)
        for _ in range(plan.flood):
            yield [token] * plan.burst
            await asyncio.sleep(0)

    async def play(self, plan: Plan) -> None:
        """Carry out ``plan`` with all streams that are there."""
        self._plan = plan
        self._wake()
        start = time.monotonic_ns()
        dues = [start + round(number * plan.interval * 1e9) for number in range(1, plan.reads + 2)]
        for due in dues:
            left = due - time.monotonic_ns()
            if left > 0:  # a server that is late finds all that has come meanwhile, as it would in a socket
                self._wake()
                await asyncio.sleep(left / 1e9)
            self._tokens.append(f"@{due} ")
        self._wake()

    async def _token(self, number: int) -> str:
        while number >= len(self._tokens):
            await self._change()
        return self._tokens[number]

    async def _change(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class Model:
    """One performance after the other."""

    def __init__(self) -> None:
        self._performance = Performance()
        self._playing: set[asyncio.Task[None]] = set()

    def reads(self) -> AsyncGenerator[list[str], None]:
        """A stream of the performance that comes next."""
        return self._performance.reads()

    def play(self, plan: Plan) -> None:
        """Begin with the streams that are there."""
        task = asyncio.create_task(self._performance.play(plan))
        self._playing.add(task)
        task.add_done_callback(self._playing.discard)
        self._performance = Performance()


class Frames:
    """Writes the frames of one answer as ragchat's codec does."""

    class Chunk(msgspec.Struct):
        answer: str
        reference: dict[str, Any]
        id: str
        session_id: str

    class Frame(msgspec.Struct):
        code: int
        message: str
        data: Any

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._message, self._session, self._run = (uuid.uuid4().hex for _ in range(3))
        self._sent = 2  # ragchat's log begins with the run's status and its passages

    def token(self, text: str) -> bytes:
        return self._encode(self.Frame(0, "", self.Chunk(text, {}, self._message, self._session)))

    def end(self) -> bytes:
        return self._encode(self.Frame(0, "", data=True))

    def event(self, frame: bytes) -> bytes:
        self._sent += 1
        return b"id: %b:%d\ndata: %b\n\n" % (self._run.encode(), self._sent, frame)

    def first_event(self) -> bytes:
        return b"retry: 2000\nid: %b:0\n\n" % self._run.encode()


async def events(model: Model) -> AsyncIterator[bytes]:
    """The body of an event stream, for both frameworks."""
    frames = Frames()
    yield frames.first_event()
    async for read in model.reads():
        for text in read:
            yield frames.event(frames.token(text))
    yield frames.event(frames.end())


def quart_app(model: Model) -> quart.Quart:
    app = quart.Quart(__name__)

    @app.websocket(SOCKET)
    async def chat() -> None:
        await quart.websocket.receive()
        frames = Frames()
        async for read in model.reads():
            for text in read:
                await quart.websocket.send(frames.token(text).decode())
        await quart.websocket.send(frames.end().decode())

    @app.get(EVENTS)
    async def completion() -> quart.Response:
        return endless(events(model))

    return app


def queues_app(model: Model) -> quart.Quart:
    """Many viewers of one answer the usual way: a queue for each of them."""
    app = quart.Quart(__name__)
    frames = Frames()
    first = [frames.first_event()]
    queues: set[asyncio.Queue[bytes | None]] = set()

    def publish(event: bytes | None) -> None:
        for queue in queues:
            queue.put_nowait(event)

    async def answer() -> None:
        async for read in model.reads():
            for text in read:
                event = frames.event(frames.token(text))
                if len(first) == 1:
                    first.append(event)
                publish(event)
        publish(frames.event(frames.end()))
        publish(None)

    async def view() -> AsyncIterator[bytes]:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        queues.add(queue)
        try:
            for past in first.copy():
                yield past
            while (event := await queue.get()) is not None:
                yield event
        finally:
            queues.discard(queue)

    @app.get(EVENTS)
    async def completion() -> quart.Response:
        if "Last-Event-ID" not in quart.request.headers:
            app.add_background_task(answer)
        return endless(view())

    return app


def endless(body: AsyncIterator[bytes]) -> quart.Response:
    response = quart.Response(body, headers=EVENT_STREAM)
    response.timeout = None
    return response


def fastapi_app(model: Model) -> FastAPI:
    app = FastAPI()

    @app.websocket(SOCKET)
    async def chat(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        frames = Frames()
        async for read in model.reads():
            for text in read:
                await websocket.send_text(frames.token(text).decode())
        await websocket.send_text(frames.end().decode())
        await websocket.close()

    @app.get(EVENTS)
    async def completion() -> StreamingResponse:
        return StreamingResponse(events(model), headers=EVENT_STREAM)

    return app


class ModelBackend:
    """The model as a backend of ragchat."""

    name = "benchmark"
    continuation: Literal["none"] = "none"

    def __init__(self, model: Model) -> None:
        self._model = model

    async def answer(self, _prompt: Prompt) -> AsyncGenerator[Token | Finish, None]:
        async for read in self._model.reads():
            for text in read:
                yield Token(text)
        yield Finish()

    async def check(self) -> str:
        return self.name

    async def close(self) -> None:
        return None


class NoPassages:
    async def retrieve(self, _query: Query) -> list[Passage]:
        return []


async def everybody(_request: object) -> Principal:
    return Principal()


Ready = Callable[[int], None]
"""Told the port."""


async def serve_ragchat(model: Model, folder: Path, ready: Ready) -> None:
    settings = load(data_dir=folder, port=0, max_runs=BACKLOG, log_retention=1, log_level="error")
    configure(settings)
    ragchat = RagChat(settings, identify=everybody, backend=ModelBackend(model), retriever=NoPassages())
    await server.serve(
        create_app(ragchat), settings, stop=server.Stop(), drain=ragchat.drain,
        ready=lambda url: ready(int(url.rpartition(":")[2])),
    )  # fmt: skip


async def serve_quart(app: quart.Quart, ready: Ready) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    config = Config()
    config.loglevel = "warning"
    config.bind = [f"fd://{listener.fileno()}"]
    ready(listener.getsockname()[1])
    await hypercorn.asyncio.serve(app, config, shutdown_trigger=asyncio.Event().wait)


async def serve_fastapi(app: FastAPI, ready: Ready) -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    ready(listener.getsockname()[1])
    await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve([listener])


SERVERS: dict[str, Callable[[Model, Path, Ready], Awaitable[None]]] = {
    "ragchat": serve_ragchat,
    "Quart + Hypercorn": lambda model, _folder, ready: serve_quart(quart_app(model), ready),
    "FastAPI + uvicorn": lambda model, _folder, ready: serve_fastapi(fastapi_app(model), ready),
    "Quart, queues": lambda model, _folder, ready: serve_quart(queues_app(model), ready),
}


def run(name: str, pipe: Connection, folder: Path, core: int) -> None:
    """Serve until the other end of ``pipe`` is closed: it is told the port, and tells the plans."""
    os.sched_setaffinity(0, {core})
    uvloop.run(_run(name, pipe, folder))


async def _run(name: str, pipe: Connection, folder: Path) -> None:
    model = Model()
    serving = asyncio.ensure_future(SERVERS[name](model, folder, pipe.send))
    try:
        while True:
            model.play(await asyncio.to_thread(pipe.recv))
    except EOFError:
        serving.cancel()
