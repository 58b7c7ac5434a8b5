"""A small application on a live server: `python -m tests.serving`, and the handle that tests have on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from quart import Quart, Response, websocket

from ragchat import server
from ragchat.settings import load
from ragchat.telemetry import logs

ROOT = Path(__file__).parent.parent


def application() -> tuple[Quart, asyncio.Event]:
    """An app with each kind of stream, and the event at which the polite ones say goodbye."""
    app = Quart("serving")
    goodbye = asyncio.Event()

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    @app.get("/sse")
    async def sse() -> Response:
        async def stream() -> AsyncIterator[bytes]:
            yield b"data: begun\n\n"
            await goodbye.wait()
            yield b"data: goodbye\n\n"

        return _stream(stream())

    @app.get("/sse/rude")
    async def rude() -> Response:
        async def stream() -> AsyncIterator[bytes]:
            yield b"data: begun\n\n"
            await asyncio.Event().wait()

        return _stream(stream())

    @app.get("/sse/flood")
    async def flood() -> Response:
        async def stream() -> AsyncIterator[bytes]:
            while True:
                yield b"data: " + b"x" * 65536 + b"\n\n"
                await asyncio.sleep(0)

        return _stream(stream())

    @app.websocket("/echo")
    async def echo() -> None:
        await websocket.accept()
        talking = asyncio.create_task(_echo())
        leaving = asyncio.create_task(goodbye.wait())
        try:
            await asyncio.wait({talking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            await websocket.close(1012)
        finally:
            talking.cancel()
            leaving.cancel()

    @app.websocket("/flood")
    async def flood_socket() -> None:
        while True:
            await websocket.send("x" * 65536)

    @app.get("/fail")
    async def fail() -> str:
        from quart import request

        raise RuntimeError(f"can't work with the headers {list(request.headers)} of {request.url}")

    return app, goodbye


async def _echo() -> None:
    while True:
        await websocket.send(await websocket.receive())


def _stream(body: AsyncIterator[bytes]) -> Response:
    response = Response(body, content_type="text/event-stream; charset=utf-8")
    response.timeout = None
    return response


class Served:
    """A server in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url
        self.websocket_url = url.replace("http://", "ws://")
        host, _, port = url.removeprefix("http://").rpartition(":")
        self.address = (host, int(port))

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def ended(self) -> tuple[int, str]:
        """Its exit code and what it wrote to standard error, once it has ended."""
        _, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, errors.decode()


@contextlib.asynccontextmanager
async def serving(**environment: str) -> AsyncIterator[Served]:
    """Start this module as a program, with settings such as ``RAGCHAT_SEND_TIMEOUT="1"``."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.serving",
        cwd=ROOT,
        env={**os.environ, "RAGCHAT_PORT": "0", "RAGCHAT_LOG_FORMAT": "json", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().strip()
        if not url:
            raise AssertionError((await process.communicate())[1].decode())
        yield Served(process, url)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def main() -> None:
    """Serve until SIGTERM, and print the address."""
    settings = load()
    logs.configure(settings)
    app, goodbye = application()

    async def drain() -> None:
        goodbye.set()

    server.run(app, settings, drain=drain, ready=lambda url: print(url, flush=True))


if __name__ == "__main__":
    main()
