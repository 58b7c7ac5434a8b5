"""Log lines say what happened, in one line each, and never a secret."""

from __future__ import annotations

import base64
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog
from pydantic import SecretStr
from websockets.asyncio.client import connect

from ragchat.settings import Settings
from ragchat.telemetry.logs import REMOVED, AccessLog, Scrubber, configure
from tests.serving import serving

API_TOKEN = "ragchat-c4n4ryc4n4ryc4n4ryc4n4ry"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJl-canary"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, ours = logging.root, logging.getLogger("ragchat")
    before = root.handlers, root.level, ours.level
    yield
    root.handlers = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Authorization: Bearer abc.def-1", f"Authorization: {REMOVED} {REMOVED}"),
        ("sent Basic dXNlcjpwYXNz to it", f"sent Basic {REMOVED} to it"),
        ("offers ragchat.v1, ragchat.bearer.YWJj", f"offers ragchat.v1, ragchat.bearer.{REMOVED}"),
        (f"can't decode {JWT}!", f"can't decode {REMOVED}!"),
        (f"no token {API_TOKEN} here", f"no token {REMOVED} here"),
        ("Incorrect API key provided: sk-proj-0123456789abcdef.", f"Incorrect API key provided: {REMOVED}."),
        ("GET /v1/ws/chat?chat_id=1&token=abc&x=1", f"GET /v1/ws/chat?chat_id=1&token={REMOVED}&x=1"),
        ("/next?url=%2Fchat%3Fticket%3Dabc", f"/next?url=%2Fchat%3Fticket%3D{REMOVED}"),
        ('{"access_token": "a b", "n": 1}', f'{{"access_token": {REMOVED}, "n": 1}}'),
        ("{'api_key': 'abc'}", f"{{'api_key': {REMOVED}}}"),
        ("[(b'x-api-key', b'abc'), (b'host', b'x')]", f"[(b'x-api-key', b{REMOVED}), (b'host', b'x')]"),
        ("Set-Cookie: session=abc; Path=/", f"Set-Cookie: {REMOVED}"),
        ("postgres://user:pa:ss@db/ragchat", f"postgres://{REMOVED}@db/ragchat"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----\nrest", f"{REMOVED}\nrest"),
    ],
)
def test_what_looks_like_a_secret_is_removed(text: str, clean: str) -> None:
    assert Scrubber().text(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "prompt_tokens=12, completion_tokens: 7",
        "run 3f2c of session_id=9a1b was taken over",
        "the ragchat-client package, version 0.1.0",
        "No credentials. Send an API token or a session JWT.",
        "can't reach https://api.example.com/v1",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert Scrubber().text(text) == text


def test_fields_are_cleaned_by_name_and_however_deep_they_are() -> None:
    event = {
        "event": "failed",
        "tokens": 3,
        "api_key": "abc",
        "headers": [("authorization", "Bearer abc"), {"Cookie": "a=b", "Accept": "*/*"}],
        "error": ValueError("token=abc"),
        "nothing": None,
    }
    assert Scrubber()(None, "info", event) == {
        "event": "failed",
        "tokens": 3,
        "api_key": REMOVED,
        "headers": [["authorization", f"Bearer {REMOVED}"], {"Cookie": REMOVED, "Accept": "*/*"}],
        "error": f"ValueError('token={REMOVED}')",
        "nothing": None,
    }


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_configured_secrets_are_removed_even_from_the_traceback_of_another_package(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure(Settings(jwt_secret=SecretStr("correct horse battery staple and"), openai_api_key=SecretStr("k3y!")))
    try:
        raise RuntimeError("refused: k3y! / correct horse battery staple and")
    except RuntimeError:
        logging.getLogger("another.package").exception("can't connect with %s", "k3y!")
    (line,) = _lines(capsys)
    assert line["event"] == f"can't connect with {REMOVED}"
    assert line["exception"].endswith(f"RuntimeError: refused: {REMOVED} / {REMOVED}")


def test_where_nobody_watches_a_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings())
    structlog.get_logger("ragchat.runs").info("run ended", run_id="r1", seconds=1.5)
    (line,) = _lines(capsys)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "run ended",
        "run_id": "r1",
        "seconds": 1.5,
        "level": "info",
        "logger": "ragchat.runs",
    }


def test_a_person_who_watches_gets_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    configure(Settings())
    structlog.get_logger("ragchat.runs").info("run ended", run_id="r1")
    written = capsys.readouterr().err
    assert "run ended" in written
    assert not written.startswith("{")


def test_nobody_who_is_quoted_can_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings(log_format="console"))
    structlog.get_logger("ragchat.runs").info("no chat", chat_id="x\n2026-01-01 [info] all is well \x1b[2J")
    (line,) = capsys.readouterr().err.splitlines()
    assert "all is well" in line
    assert "\x1b" not in line


def test_a_traceback_keeps_its_lines_and_shows_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    configure(Settings(log_format="console"))
    local = "s3cret"
    try:
        raise RuntimeError(f"it has {len(local)} letters")
    except RuntimeError:
        structlog.get_logger("ragchat.runs").exception("failed")
    written = capsys.readouterr().err
    assert written.splitlines()[-1] == "RuntimeError: it has 6 letters"
    assert "s3cret" not in written


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["ours debug", "ours info", "ours error", "theirs error"]),
        ("info", ["ours info", "ours error", "theirs error"]),
        ("error", ["ours error", "theirs error"]),
    ],
)
def test_other_packages_speak_only_when_something_is_wrong(
    capsys: pytest.CaptureFixture[str], level: Any, written: list[str]
) -> None:
    configure(Settings(log_level=level))
    for name, logger in (("ours", "ragchat.runs"), ("theirs", "httpx")):
        logging.getLogger(logger).debug(f"{name} debug")
        logging.getLogger(logger).info(f"{name} info")
        logging.getLogger(logger).error(f"{name} error")
    assert [line["event"] for line in _lines(capsys)] == written


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_secrets_that_clients_send_are_in_no_line_of_a_live_server(log_format: str) -> None:
    """Header, query, cookie, Referer and subprotocol; answered, refused, and in a handler that fails."""
    subprotocol = base64.urlsafe_b64encode(API_TOKEN.encode()).rstrip(b"=").decode()
    headers = {
        "Authorization": f"Bearer {API_TOKEN}",
        "Cookie": "session=canary-cookie",
        "Referer": "https://host.example/page?token=canary-referer",
    }
    query = f"token={JWT}&ticket=canary-ticket"
    async with serving(RAGCHAT_LOG_FORMAT=log_format, RAGCHAT_LOG_LEVEL="debug") as served:
        async with httpx.AsyncClient(headers=headers, timeout=30) as client:
            for path in ("/hello", "/fail", "/missing"):
                await client.get(f"{served.url}{path}?{query}")
        async with connect(
            f"{served.websocket_url}/echo?{query}",
            additional_headers=headers,
            subprotocols=["ragchat.v1", f"ragchat.bearer.{subprotocol}"],
        ):
            pass
        served.signal()
        _, written = await served.ended()
    assert "can't work with the headers" in written
    for canary in ("canary", API_TOKEN, JWT, subprotocol):
        assert canary not in written


async def _access_line(
    messages: list[dict[str, Any]], scope: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    async def discard(_message: Any) -> None:
        pass

    configure(Settings())
    await AccessLog(app)({"raw_path": b"/a%20b", "client": ("192.0.2.7", 5), **scope}, discard, discard)  # type: ignore[arg-type]
    (line,) = _lines(capsys)
    return line


@pytest.mark.parametrize(
    ("scope", "messages", "method", "status"),
    [
        ({"type": "http", "method": "POST"}, [{"type": "http.response.start", "status": 201}], "POST", 201),
        ({"type": "http", "method": "GET"}, [], "GET", None),
        ({"type": "websocket"}, [{"type": "websocket.accept"}, {"type": "websocket.close"}], "GET", 101),
        ({"type": "websocket"}, [{"type": "websocket.close"}], "GET", 403),
        ({"type": "websocket"}, [{"type": "websocket.http.response.start", "status": 401}], "GET", 401),
        ({"type": "websocket"}, [{"type": "unheard of"}], "GET", None),
    ],
)
async def test_the_access_log_tells_how_a_request_was_answered(
    capsys: pytest.CaptureFixture[str],
    scope: dict[str, Any],
    messages: list[dict[str, Any]],
    method: str,
    status: int | None,
) -> None:
    line = await _access_line(messages, scope, capsys)
    assert (line["method"], line["path"], line["status"], line["peer"]) == (method, "/a%20b", status, "192.0.2.7")
