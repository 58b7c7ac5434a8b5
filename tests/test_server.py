"""The server ends in time, whoever is connected, and survives whatever is sent to it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import signal
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import psutil
import pytest
from quart import Quart
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from ragchat import server
from ragchat.errors import ConfigurationError
from ragchat.settings import Settings
from tests.serving import ROOT, Served, application, serving

UPGRADE = (
    b"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
FLOOD_SSE = b"GET /sse/flood HTTP/1.1\r\nHost: x\r\n\r\n"
FLOOD_SOCKET = b"GET /flood HTTP/1.1\r\n" + UPGRADE


class Here:
    """A server in this process."""

    def __init__(self, url: str, stop: server.Stop, task: asyncio.Task[None]) -> None:
        self.url = url
        self.websocket_url = url.replace("http://", "ws://")
        host, _, port = url.removeprefix("http://").rpartition(":")
        self.address = (host, int(port))
        self.stop = stop
        self.task = task


async def _nothing() -> None:
    pass


@contextlib.asynccontextmanager
async def dial(address: tuple[str, int]) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A plain TCP connection."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def here(
    app: Quart, drain: Callable[[], Awaitable[None]] = _nothing, **settings: object
) -> AsyncIterator[Here]:
    stop = server.Stop()
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        server.serve(app, Settings(port=0, **settings), stop=stop, drain=drain, ready=ready.set_result)
    )
    try:
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield Here(ready.result(), stop, task)
    finally:
        stop()
        stop()
        await task


async def polite() -> tuple[Quart, Callable[[], Awaitable[None]]]:
    app, goodbye = application()

    async def drain() -> None:
        goodbye.set()

    return app, drain


class TestEnding:
    """What happens on SIGTERM. "In time" is the time limit of each test."""

    async def test_a_websocket_is_told_1012(self) -> None:
        async with serving() as served, connect(f"{served.websocket_url}/echo") as client:
            await client.send("hello")
            assert await client.recv() == "hello"
            served.signal()
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
            await _ends_well(served)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    async def test_an_sse_stream_ends_cleanly(self, number: signal.Signals) -> None:
        async with serving() as served, httpx.AsyncClient(timeout=30) as client:
            async with client.stream("GET", f"{served.url}/sse") as response:
                body = response.aiter_raw()
                assert await anext(body) == b"data: begun\n\n"
                served.signal(number)
                assert [piece async for piece in body] == [b"data: goodbye\n\n"]
            await _ends_well(served)

    async def test_a_stream_that_does_not_end_is_cut(self) -> None:
        async with serving() as served, httpx.AsyncClient(timeout=30) as client:
            async with client.stream("GET", f"{served.url}/sse/rude") as response:
                body = response.aiter_raw()
                await anext(body)
                served.signal()
                with pytest.raises(httpx.TransportError):
                    await anext(body)
            await _ends_well(served)

    @pytest.mark.parametrize("request_", [FLOOD_SSE, FLOOD_SOCKET], ids=["sse", "websocket"])
    async def test_a_client_that_never_reads_does_not_hold_it_up(self, request_: bytes) -> None:
        async with serving() as served:
            with socket.create_connection(served.address) as client:
                client.sendall(request_)
                await asyncio.to_thread(client.recv, 1)
                served.signal()
                await _ends_well(served)

    async def test_half_a_request_and_an_idle_connection_do_not_hold_it_up(self) -> None:
        async with serving() as served, httpx.AsyncClient(timeout=30) as client:
            assert (await client.get(f"{served.url}/hello")).text == "hello"
            with socket.create_connection(served.address) as half:
                half.sendall(b"GET /hel")
                served.signal()
                await _ends_well(served)

    async def test_connections_are_accepted_while_it_drains(self) -> None:
        draining, drained = asyncio.Event(), asyncio.Event()

        async def drain() -> None:
            draining.set()
            await drained.wait()

        async with here(application()[0], drain) as running, httpx.AsyncClient(timeout=30) as client:
            running.stop()
            await draining.wait()
            assert (await client.get(f"{running.url}/hello")).text == "hello"
            drained.set()
            await running.task

    async def test_a_second_signal_ends_it_at_once(self) -> None:
        begun = asyncio.Event()

        async def for_ever() -> None:
            begun.set()
            await asyncio.Event().wait()

        async with (
            here(application()[0], for_ever, drain_timeout=3600) as running,
            httpx.AsyncClient(timeout=30) as client,
            client.stream("GET", f"{running.url}/sse/rude") as response,
        ):
            await anext(response.aiter_raw())
            running.stop()
            await begun.wait()
            assert not running.task.done()
            running.stop()
            await running.task

    async def test_a_drain_that_takes_too_long_is_not_waited_for(self) -> None:
        async with here(application()[0], asyncio.Event().wait, drain_timeout=0.01) as running:
            running.stop()
            await running.task

    async def test_a_drain_that_fails_does_not_keep_it_from_ending(self) -> None:
        async def fail() -> None:
            raise RuntimeError("no such run")

        async with here(application()[0], fail) as running:
            running.stop()
            await running.task

    async def test_the_application_is_shut_down_after_the_last_answer(self) -> None:
        app, drain = await polite()
        order: list[str] = []

        @app.after_serving
        async def closed() -> None:
            order.append("closed")

        async with here(app, drain) as running, httpx.AsyncClient(timeout=30) as client:
            async with client.stream("GET", f"{running.url}/sse") as response:
                body = response.aiter_raw()
                await anext(body)
                running.stop()
                assert [piece async for piece in body] == [b"data: goodbye\n\n"]
                order.append("answered")
            await running.task
        assert order == ["answered", "closed"]


async def _ends_well(served: Served) -> None:
    code, errors = await served.ended()
    assert code == 0
    assert "Traceback" not in errors


class TestConnections:
    async def test_a_peer_that_reads_nothing_is_dropped_and_the_others_are_not(self) -> None:
        app, left = Quart("flood"), asyncio.Event()

        @app.websocket("/flood")
        async def flood() -> None:
            from quart import websocket

            try:
                while True:
                    await websocket.send("x" * 65536)
            finally:
                left.set()

        @app.websocket("/echo")
        async def echo() -> None:
            from quart import websocket

            while True:
                await websocket.send(await websocket.receive())

        async with here(app, send_timeout=0.5) as running, connect(f"{running.websocket_url}/echo") as other:
            with socket.create_connection(running.address) as client:
                client.sendall(FLOOD_SOCKET)
                await left.wait()
                await other.send("still here")
                assert await other.recv() == "still here"

    async def test_pings_keep_a_silent_websocket_alive(self) -> None:
        async with here(application()[0], heartbeat=0.05) as running, dial(running.address) as (reader, writer):
            writer.write(b"GET /echo HTTP/1.1\r\n" + UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(6) == b"\x89\x00" * 3

    async def test_compression_is_not_agreed_to(self) -> None:
        """A small compressed frame would otherwise become as large as the client likes."""
        async with (
            here(application()[0]) as running,
            connect(f"{running.websocket_url}/echo", compression="deflate") as client,
        ):
            assert client.protocol.extensions == []

    async def test_a_message_that_is_too_large_closes_with_1009(self) -> None:
        async with here(application()[0], max_message_bytes=1000) as running:
            async with connect(f"{running.websocket_url}/echo") as client:
                await client.send("x" * 1000)
                assert await client.recv() == "x" * 1000
                await client.send("x" * 1001)
                with pytest.raises(ConnectionClosed) as closed:
                    await client.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009

    async def test_a_message_without_end_is_not_kept(self) -> None:
        megabyte = 1 << 20
        async with serving() as served, dial(served.address) as (reader, writer):
            writer.write(b"GET /echo HTTP/1.1\r\n" + UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            memory = psutil.Process(served.process.pid).memory_info
            before = memory().rss
            writer.write(b"\x81\xff" + struct.pack(">Q", 1 << 40) + bytes(4))
            for _ in range(64):
                writer.write(b"x" * megabyte)
                await writer.drain()
            assert memory().rss - before < 32 * megabyte
            writer.transport.abort()

    @pytest.mark.parametrize(
        "preface",
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        ],
        ids=["prior knowledge", "upgrade"],
    )
    async def test_http2_is_not_spoken(self, preface: bytes) -> None:
        async with here(application()[0]) as running, dial(running.address) as (reader, writer):
            writer.write(preface)
            assert (await reader.readline()).startswith(b"HTTP/1.1 ")


BROKEN_REQUESTS = [
    b"\x00\xff\xfe\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 300,
    b"GET /hello HTTP/1.1\r\n\r\n",
    b"GET ?x HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000,
    b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /echo HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /echo HTTP/1.1\r\n" + UPGRADE[:-2] + b"Sec-WebSocket-Protocol: \xff\r\n\r\n",
]
BROKEN_FRAMES = [
    b"\x81\x05hello",
    b"\x81\x82\x00\x00\x00\x00\xff\xff",
    b"\x83\x82\x00\x00\x00\x00ab",
    b"\xc1\x82\x00\x00\x00\x00ab",
    b"\x89\xfe\x00\xff\x00\x00\x00\x00" + b"a" * 255,
    b"\x88\x81\x00\x00\x00\x00a",
    b"\x80\x82\x00\x00\x00\x00ab",
    b"\x81\xff" + b"\xff" * 8 + bytes(4),
]


async def test_nothing_that_is_sent_prints_a_traceback_or_harms_the_others() -> None:
    async with serving() as served, httpx.AsyncClient(timeout=30) as client:
        for request in BROKEN_REQUESTS:
            await _send_and_read_to_the_end(served, request)
        for frame in BROKEN_FRAMES:
            await _send_and_read_to_the_end(served, b"GET /echo HTTP/1.1\r\n" + UPGRADE, frame)
        for path in ("/sse", "/sse/flood", "/sse/rude"):
            async with client.stream("GET", served.url + path) as response:
                await anext(response.aiter_raw())
        assert (await client.get(f"{served.url}/hello")).text == "hello"
        served.signal()
        await _ends_well(served)


async def _send_and_read_to_the_end(served: Served, request: bytes, frame: bytes = b"") -> None:
    async with dial(served.address) as (reader, writer):
        with contextlib.suppress(ConnectionError):
            writer.write(request)
            if frame:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(frame)
            await reader.read()


class TestStarting:
    async def test_a_port_in_use_names_the_setting_and_the_remedy(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ConfigurationError) as caught:
                server.listen("127.0.0.1", port, 10)
        assert str(caught.value) == (
            f"RAGCHAT_PORT={port}: another program listens on 127.0.0.1:{port} already. "
            "Stop it, or choose another port with --port (0 takes a free one)."
        )

    def test_a_port_that_needs_privileges_names_the_remedy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_arguments: object, **_options: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(socket, "create_server", refuse)
        with pytest.raises(ConfigurationError, match=r"RAGCHAT_PORT=80: .* above 1023 with --port"):
            server.listen("127.0.0.1", 80, 10)

    @pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "2001:db8::1", "a..b"])
    def test_a_host_that_is_not_ours_names_the_setting(self, host: str) -> None:
        with pytest.raises(ConfigurationError, match=rf"RAGCHAT_HOST='{host}'.* 0.0.0.0 for every network"):
            server.listen(host, 0, 10)

    @pytest.mark.parametrize(
        ("host", "shown"), [("0.0.0.0", "http://127.0.0.1:"), ("::1", "http://[::1]:"), ("::", "http://[::1]:")]
    )
    async def test_the_address_that_is_shown_can_be_opened(self, host: str, shown: str) -> None:
        async with here(application()[0], host=host) as running, httpx.AsyncClient(timeout=30) as client:
            assert running.url.startswith(shown)
            assert (await client.get(f"{running.url}/hello")).text == "hello"

    async def test_an_error_of_the_start_up_comes_out_as_it_is(self) -> None:
        app = Quart("broken")

        @app.before_serving
        async def fail() -> None:
            raise ConfigurationError("RAGCHAT_DATABASE_URL: no such database.")

        with pytest.raises(ConfigurationError, match=r"^RAGCHAT_DATABASE_URL: no such database\.$"):
            async with here(app):
                pass


class TestConfigFile:
    def test_what_it_says_is_used(self, tmp_path: Path) -> None:
        file = tmp_path / "hypercorn.toml"
        file.write_text("keep_alive_timeout = 30\nroot_path = '/chat'\n")
        config = server.read_config(Settings(max_message_bytes=4096, heartbeat=7), file)
        assert (config.keep_alive_timeout, config.root_path) == (30, "/chat")
        assert (config.websocket_max_message_size, config.websocket_ping_interval) == (4096, 7)
        assert config.alpn_protocols == ["http/1.1"]

    def test_the_one_in_this_repository_is_accepted(self) -> None:
        assert server.read_config(Settings(), ROOT / "hypercorn.toml").include_server_header is False

    def test_it_may_be_missing(self, tmp_path: Path) -> None:
        assert server.read_config(Settings(), tmp_path / "hypercorn.toml").include_server_header is True

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("keepalive_timeout = 5", "`keepalive_timeout` is unknown or has no effect. What can be set: backlog"),
            ("workers = 4", "`workers` is unknown or has no effect"),
            ("bind = '0.0.0.0:80'", "`bind` has no effect; set RAGCHAT_HOST and RAGCHAT_PORT instead"),
            ("backlog = 'many'", "`backlog`: input should be a valid integer"),
            ("backlog =", "can't be read: Invalid value"),
            ("certfile = 'a.pem'", "HTTPS needs both `certfile` and `keyfile`"),
        ],
    )
    def test_what_makes_no_sense_is_refused_by_name(self, tmp_path: Path, text: str, complaint: str) -> None:
        file = tmp_path / "hypercorn.toml"
        file.write_text(text)
        with pytest.raises(ConfigurationError) as caught:
            server.read_config(Settings(), file)
        assert str(caught.value).startswith(f"{file}: {complaint}")

    async def test_a_certificate_that_can_not_be_read_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "hypercorn.toml").write_text("certfile = 'missing.pem'\nkeyfile = 'missing.pem'\n")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigurationError, match=r"hypercorn.toml: can't use the certificate missing\.pem"):
            async with here(application()[0]):
                pass


async def test_every_request_has_one_line_in_the_log() -> None:
    async with serving() as served, httpx.AsyncClient(timeout=30) as client:
        await client.get(f"{served.url}/hello?a=b")
        async with connect(f"{served.websocket_url}/echo"):
            pass
        served.signal()
        _, errors = await served.ended()
    lines = [json.loads(line) for line in errors.splitlines()]
    assert [(line["method"], line["path"], line["status"], line["peer"]) for line in lines] == [
        ("GET", "/hello", 200, "127.0.0.1"),
        ("GET", "/echo", 101, "127.0.0.1"),
    ]


async def test_a_peer_that_is_still_sending_reads_why_it_was_refused() -> None:
    """Closing on bytes that nobody has read would reset the connection, and take the reason with it."""
    async with serving() as served:
        heard = await asyncio.to_thread(_talk_past_the_end, served.address)
    assert heard.startswith(b"HTTP/1.1 400")


def _talk_past_the_end(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=10) as peer:
        peer.sendall(b"this is no HTTP\r\n\r\n")
        peer.recv(1, socket.MSG_PEEK)  # the answer, and with it the end, is on its way
        for _ in range(2000):  # time enough for a reset to come, if one does
            peer.sendall(b"still talking")
        peer.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: peer.recv(65536), b""))
