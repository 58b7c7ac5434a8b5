"""Who is asked, and which way the question goes."""

from __future__ import annotations

import socket

import pytest

from ragchat.client import Client, NetworkError
from tests.client.scripts import MARKER, UPGRADED, chunk, framed, pieces
from tests.fakes.model_server import Act, ModelServer


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ws://127.0.0.1:8000", "http://", "ftp://host"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no address of a service"):
        Client(url, "")


@pytest.mark.parametrize("token", ["ragchat-…", "ragchat-a\n"])
def test_a_token_that_is_none_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="Copy it again"):
        Client("http://127.0.0.1:8000", token)


async def test_a_service_that_is_not_there_is_a_clear_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with Client(f"http://127.0.0.1:{port}", "") as client:
        with pytest.raises(NetworkError, match=f"No answer from http://127.0.0.1:{port}/.*Is the address right"):
            await pieces(client.ask("What?"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_this_machine_is_never_asked_through_a_proxy(
    server: ModelServer, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.only(UPGRADED + framed('{"type":"pong"}', chunk("Here."), MARKER), Act.HANG, raw=True)
    async with Client(f"http://{host}:{server.port}", "") as client:
        assert await pieces(client.ask("What?")) == ["Here."]
    assert "authorization" not in server.requests[0].headers
