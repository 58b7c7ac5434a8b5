"""How backends speak HTTP: what a status or a broken network becomes, and how long anything may take."""

from __future__ import annotations

import asyncio
import email.utils
import json
import socket
import time
from collections.abc import AsyncIterator

import pytest

from ragchat.backends.http import Upstream
from ragchat.errors import BackendBusyError, BackendError
from tests.fakes.model_server import Act, ModelServer

KEY = "sk-canary-7f3a"


def upstream(base_url: str, *, key: str = KEY, connect_timeout: float = 10, idle_timeout: float = 10) -> Upstream:
    return Upstream(
        "dify",
        base_url,
        key=key,
        max_connections=1,
        connect_timeout=connect_timeout,
        idle_timeout=idle_timeout,
    )


async def failure(there: Upstream) -> BackendError:
    """What asking fails with."""
    with pytest.raises(BackendError) as caught:
        async with there.request("GET", "/thing"):
            pass
    await there.close()
    assert KEY not in str(caught.value)
    return caught.value


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


BUSY = "is overloaded or limits our rate"
CHECK_KEY = "check RAGCHAT_DIFY_API_KEY."


@pytest.mark.parametrize(
    ("status", "body", "sentence", "retryable"),
    [
        (307, b"", "redirects (307); set RAGCHAT_DIFY_BASE_URL to where it points.", False),
        (400, b'{"error":{"message":"too\\n long."}}', "did not accept the request (400): too long.", False),
        (400, b'{"error":"too long"}', "did not accept the request (400): too long.", False),
        (400, b'{"code":"x","message":"too long"}', "did not accept the request (400): too long.", False),
        (422, b'{"detail":[{"msg":"too long"}]}', "did not accept the request (422): too long.", False),
        (400, b'{"error":[]}', "did not accept the request (400).", False),
        (400, b"[" * 50_000, "did not accept the request (400).", False),
        (401, b'{"error":"wrong key sk-canary-7f3a"}', f"refused our key (401); {CHECK_KEY}", False),
        (403, b"", f"refused our key (403); {CHECK_KEY}", False),
        (
            404,
            b'{"detail":"Not Found"}',
            "does not know the path or the model (404): Not Found; "
            "check RAGCHAT_DIFY_BASE_URL and RAGCHAT_DIFY_MODEL.",
            False,
        ),
        (429, b'{"error":"slow down"}', f"{BUSY} (429): slow down; try again later.", True),
        (503, b"", f"{BUSY} (503); try again later.", True),
        (500, b'{"error":"key sk-canary-7f3a"}', "failed (500): key …; look at its log.", True),
        (502, b"<html><h1>Bad gateway", "failed (502); look at its log.", True),
        (500, b'"' + b"x" * 100_000 + b'"', "failed (500); look at its log.", True),
    ],
)
async def test_a_status_becomes_a_sentence(
    status: int, body: bytes, sentence: str, retryable: bool, server: ModelServer
) -> None:
    """It says what happened, where, and what to do; in the server's words where these are any."""
    server.script(body, status=status)
    error = await failure(upstream(server.base_url))
    assert str(error) == f"dify at {server.base_url} {sentence}"
    assert error.retryable is retryable
    assert isinstance(error, BackendBusyError) is (status in {429, 503})


async def test_a_long_reason_is_shortened(server: ModelServer) -> None:
    server.script(json.dumps("x" * 1000).encode(), status=400)
    assert str(await failure(upstream(server.base_url))).endswith(f"(400): {'x' * 300}.")


async def test_a_refusal_is_told_though_its_body_never_comes(server: ModelServer) -> None:
    server.script(Act.HEADERS, Act.RESET, status=500)
    error = await failure(upstream(server.base_url))
    assert str(error) == f"dify at {server.base_url} failed (500); look at its log."


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("0", 0, 0),
        ("17", 17, 17),
        (email.utils.formatdate(time.time() + 1000, usegmt=True), 1, 1000),
        (email.utils.formatdate(time.time() - 1000, usegmt=True), 0, 0),
    ],
)
async def test_retry_after_is_seconds_or_a_date(header: str, low: float, high: float, server: ModelServer) -> None:
    server.script(b"", status=429, headers={"Retry-After": header})
    error = await failure(upstream(server.base_url))
    assert error.retry_after is not None
    assert low <= error.retry_after <= high


@pytest.mark.parametrize("header", ["", "soon", "-1", "1e999", "Wed, 99 Foo 2026 07:28:00 GMT"])
async def test_any_other_retry_after_is_none(header: str, server: ModelServer) -> None:
    server.script(b"", status=429, headers={"Retry-After": header})
    assert (await failure(upstream(server.base_url))).retry_after is None


async def test_compression_is_refused(server: ModelServer) -> None:
    """A few bytes could become any number: we ask for none, and take none."""
    server.script(b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    error = await failure(upstream(server.base_url))
    assert str(error) == f"dify at {server.base_url} compresses its answers although we ask it not to."


async def test_garbage_is_no_http(server: ModelServer) -> None:
    server.script(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", raw=True)
    error = await failure(upstream(server.base_url))
    assert str(error) == f"dify at {server.base_url} does not speak HTTP as we do; check RAGCHAT_DIFY_BASE_URL."


async def test_a_refused_connection() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        error = await failure(upstream(address))
    assert str(error) == (
        f"dify at {address} can't be connected to; check that it runs, and RAGCHAT_DIFY_BASE_URL."
    )
    assert error.retryable


async def test_a_host_that_does_not_exist() -> None:
    error = await failure(upstream("http://nowhere.invalid/v1"))
    assert str(error) == (
        "dify at http://nowhere.invalid/v1 has a host name that can't be resolved; check RAGCHAT_DIFY_BASE_URL."
    )


async def test_a_host_that_does_not_answer() -> None:
    """Its backlog is full, so the connection is never made."""
    with socket.socket() as deaf, socket.socket() as first:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        first.connect(deaf.getsockname())
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        error = await failure(upstream(address, connect_timeout=0.1))
    assert str(error) == (
        f"dify at {address} did not accept a connection within 0.1 seconds; "
        f"check that it runs, and RAGCHAT_DIFY_BASE_URL."
    )


async def test_a_server_without_tls() -> None:
    async def answer_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer_plainly, "127.0.0.1", 0) as server:
        address = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        error = await failure(upstream(address))
    assert str(error) == (
        f"dify at {address} has no TLS connection for us, or a certificate that can't be trusted; "
        f"check RAGCHAT_DIFY_BASE_URL and the certificate."
    )
    assert not error.retryable


async def test_credentials_in_the_address_are_used_and_never_shown(server: ModelServer) -> None:
    """They become basic authentication; a query, as Azure needs one, is sent with every request."""
    server.script(b'{"error":"no canary here"}', status=500)
    address = f"127.0.0.1:{server.port}/v1"
    error = await failure(upstream(f"http://user:canary@{address}?api-version=1", key=""))
    assert str(error) == f"dify at http://{address} failed (500): no … here; look at its log."
    assert server.requests[0].path == "/v1/thing?api-version=1"
    assert server.requests[0].headers["authorization"] == "Basic dXNlcjpjYW5hcnk="


async def test_a_body_beyond_the_limit_is_refused(server: ModelServer) -> None:
    server.script(b"12345678", b"9", Act.HANG)
    there = upstream(server.base_url)
    async with there.request("GET", "/thing") as reply:
        with pytest.raises(BackendError, match="sent more than 8 bytes"):
            await reply.read(8)
    await server.closed(0)
    await there.close()


async def test_time_goes_on_whatever_comes(server: ModelServer) -> None:
    """Were the clock wound up by every byte, this would never end."""
    server.script(Act.COMMENTS)
    there = upstream(server.base_url, idle_timeout=0.1)
    with pytest.raises(BackendError, match="sent nothing for"):
        async with there.request("GET", "/thing") as reply:
            async for _ in reply:
                pass
    await server.closed(0)
    await there.close()


async def test_time_can_be_allowed(server: ModelServer) -> None:
    """More of it, as often as a backend likes, and then less."""
    server.script(Act.COMMENTS)
    there = upstream(server.base_url, idle_timeout=0.5)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(BackendError, match="sent nothing"):
        async with there.request("GET", "/thing") as reply:
            async for _ in reply:
                reply.allow(0.5 if loop.time() < begun + 1 else 0)
    assert loop.time() > begun + 1
    await there.close()


async def test_our_own_pauses_do_not_count(server: ModelServer) -> None:
    """A reader that takes its time does not hold that against the server."""
    release = asyncio.Event()
    server.script(b"one", release, b"two")
    there = upstream(server.base_url, idle_timeout=0.5)
    async with there.request("GET", "/thing") as reply:
        chunks = aiter(reply)
        assert await anext(chunks) == b"one"
        reply.pause()
        await asyncio.sleep(0.6)
        reply.allow(0.5)
        release.set()
        assert await anext(chunks) == b"two"
    await there.close()
