"""A real Chromium in front of a real server: what the tests of the page and the screenshot are made with."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from playwright.async_api import Browser, async_playwright
from quart import Quart, request

from ragchat import server
from ragchat.auth.identity import Identify
from ragchat.auth.tokens import create_token
from ragchat.backends.contract import Backend
from ragchat.blueprint import RagChat
from ragchat.rag.contract import Retriever
from ragchat.settings import Settings
from tests.services import missing

_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class Site:
    """A served ragchat, and a token for it.

    ``url`` is where the page is, with its slash; ``requests`` are the addresses and referrers it was sent.
    """

    ragchat: RagChat
    url: str
    token: str
    requests: list[str]

    @property
    def link(self) -> str:
        """The address that signs in."""
        return f"{self.url}#token={self.token}"


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The installed Chromium; without one the test is skipped, or fails where it has to be there."""
    executable = shutil.which("chromium")
    if executable is None:
        missing("Chromium", FileNotFoundError("there is no `chromium` on the PATH"))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=_ARGUMENTS)
        yield browser
        await browser.close()


@asynccontextmanager
async def site(
    folder: Path,
    *,
    backend: Backend | None = None,
    retriever: Retriever | None = None,
    prefix: str | None = None,
    identify: Identify | None = None,
) -> AsyncIterator[Site]:
    """Serve ragchat with a new SQLite database in ``folder``, at the root or under ``prefix``.

    ``identify`` is the host's, who then says who is asking in place of tokens.
    """
    settings = Settings(data_dir=folder, port=0, drain_timeout=0.1)
    ragchat = RagChat(settings, identify=identify, backend=backend, retriever=retriever)
    app = Quart("host", static_folder=None)
    app.register_blueprint(ragchat.blueprint, url_prefix=prefix)
    requests: list[str] = []

    @app.before_request
    def remember() -> None:
        requests.extend([request.url, request.headers.get("Referer", "")])

    stop = server.Stop()
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        server.serve(app, settings, stop=stop, drain=ragchat.drain, ready=address.set_result)
    )
    try:
        await asyncio.wait({serving, address}, return_when=asyncio.FIRST_COMPLETED)
        if not address.done():
            await serving
        token = await create_token(ragchat.database, "browser")
        yield Site(ragchat, f"{address.result()}{prefix or ''}/", token, requests)
    finally:
        stop()
        await serving


class Relay:
    """Stands between a browser and a server like a bad network: ``broken``, it lets nothing through."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._connections: set[asyncio.Task[None]] = set()
        self.broken = False

    def cut(self) -> None:
        """Break all connections at once, and let no new one through."""
        self.broken = True
        for connection in self._connections:
            connection.cancel()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry the bytes of one connection both ways, until it is cut."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if not self.broken:
                await self._carry(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(*self._server)
        try:
            ways = {asyncio.create_task(_pump(reader, requests)), asyncio.create_task(_pump(answers, writer))}
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
        finally:
            requests.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def relayed(url: str) -> AsyncIterator[tuple[Relay, str]]:
    """A relay to the server at ``url``, and the address that it can be reached at through the relay."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    relay = Relay((parts.hostname, parts.port))
    listener = await asyncio.start_server(relay.connect, "127.0.0.1", 0)
    try:
        port = listener.sockets[0].getsockname()[1]
        yield relay, parts._replace(netloc=f"127.0.0.1:{port}").geturl()
    finally:
        listener.close()
        relay.cut()
