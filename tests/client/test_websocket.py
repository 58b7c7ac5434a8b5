"""The client's socket on networks that do not want it, played by a scripted server."""

from __future__ import annotations

import asyncio
import json

import pytest

from ragchat.client import ChatError, Client, NetworkError
from tests.client.scripts import MARKER, SESSION, TOKEN, UPGRADED, chunk, closing, events, framed, pieces, refused
from tests.fakes.model_server import Act, ModelServer, Request

PONG = '{"type":"pong"}'


def fallback(server: ModelServer) -> Request:
    """The request that came after the socket's."""
    upgrade, completion = server.requests
    assert upgrade.headers["upgrade"] == "websocket"
    assert (completion.method, completion.path) == ("POST", "/assistant/v1/conversation/completion")
    return completion


async def test_the_question_follows_the_first_pong(server: ModelServer, client: Client) -> None:
    """Deltas come one by one, and afterwards the answer has its text, its sources and its session."""
    reference = {"total": 0, "chunks": [], "doc_aggs": []}
    frames = framed(PONG, chunk("One "), chunk("two."), chunk("", reference), MARKER)
    server.only(UPGRADED + frames, Act.HANG, raw=True)
    answer = client.ask("What?")
    assert await pieces(answer) == ["One ", "two."]
    assert (answer.text, answer.reference, answer.session_id) == ("One two.", reference, SESSION)
    assert answer.run_id is None


async def test_the_token_travels_in_the_header_of_the_upgrade(server: ModelServer, client: Client) -> None:
    server.only(UPGRADED + framed(PONG, MARKER), Act.HANG, raw=True)
    await pieces(client.ask("What?"))
    (upgrade,) = server.requests
    assert upgrade.headers["authorization"] == f"Bearer {TOKEN}"
    assert upgrade.path == "/assistant/v1/ws/chat"


@pytest.mark.parametrize("status", [400, 404, 426, 500, 502])
async def test_a_refused_upgrade_leads_to_sse(server: ModelServer, client: Client, status: int) -> None:
    server.script(refused(status), raw=True)
    server.script(events(chunk("Answer."), MARKER))
    answer = client.ask("What?", session_id="a session", kb_ids=["a dataset"])
    assert await pieces(answer) == ["Answer."]
    assert answer.run_id == "run"
    completion = fallback(server)
    assert completion.headers["authorization"] == f"Bearer {TOKEN}"
    sent = completion.json()
    assert len(sent.pop("request_id")) == 32
    assert sent == {
        "chat_id": "default", "question": "What?", "session_id": "a session", "kb_ids": ["a dataset"]
    }  # fmt: skip


@pytest.mark.parametrize("status", [401, 403, 429])
async def test_a_refusal_that_is_meant_for_the_client_is_final(
    server: ModelServer, client: Client, status: int
) -> None:
    server.only(refused(status), raw=True)
    with pytest.raises(ChatError, match=f"HTTP {status}") as raised:
        await pieces(client.ask("What?"))
    assert raised.value.code == status
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "script",
    [
        pytest.param((Act.HANG,), id="the upgrade is not answered"),
        pytest.param((UPGRADED, Act.HANG), id="the socket opens and stays mute"),
        pytest.param((UPGRADED, Act.CUT), id="the socket is closed before a frame"),
        pytest.param((UPGRADED, Act.RESET), id="the socket is reset before a frame"),
        pytest.param((UPGRADED + closing(1013, "overloaded"), Act.HANG), id="the service closes it"),
        pytest.param((UPGRADED + b"\xff\xff garbage", Act.HANG), id="what comes is no frame"),
        pytest.param((Act.RESET,), id="the upgrade is reset"),
        pytest.param((b"no HTTP at all\r\n\r\n", Act.CUT), id="what comes is no HTTP"),
    ],
)
async def test_a_socket_that_does_not_work_leads_to_sse(
    server: ModelServer, client: Client, script: tuple[bytes | Act, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """… and no question was sent over it, so the answer is generated once."""
    monkeypatch.setattr("ragchat.client.websocket._PATIENCE", 0.2)
    server.script(*script, raw=True)
    server.script(events(chunk("Answer."), MARKER))
    assert await pieces(client.ask("What?")) == ["Answer."]
    fallback(server)


async def test_a_client_that_had_to_fall_back_does_not_try_the_socket_again(
    server: ModelServer, client: Client
) -> None:
    server.script(refused(426), raw=True)
    server.script(events(chunk("First."), MARKER))
    server.script(events(chunk("Second."), MARKER))
    assert await pieces(client.ask("One?")) == ["First."]
    assert await pieces(client.ask("Two?")) == ["Second."]
    assert [request.method for request in server.requests] == ["GET", "POST", "POST"]


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        pytest.param((Act.CUT,), "was lost in the middle of the answer", id="cut"),
        pytest.param((closing(1012, "restarting"), Act.HANG), "close code 1012: restarting", id="closed"),
    ],
)
async def test_a_socket_that_dies_during_the_answer_is_an_error(
    server: ModelServer, client: Client, end: tuple[bytes | Act, ...], reason: str
) -> None:
    """The text so far stays, and the question is not sent a second time."""
    server.only(UPGRADED + framed(PONG, chunk("Half an ")), *end, raw=True)
    answer = client.ask("What?")
    with pytest.raises(NetworkError, match=reason):
        await pieces(answer)
    assert answer.text == "Half an "
    assert len(server.requests) == 1


async def test_an_error_frame_is_an_error_with_the_services_words(server: ModelServer, client: Client) -> None:
    error = {"code": 401, "message": "No credentials.", "data": {"answer": "**ERROR**: …", "reference": []}}
    server.only(UPGRADED + framed(json.dumps(error)) + closing(1008, "No credentials."), Act.CUT, raw=True)
    answer = client.ask("What?")
    with pytest.raises(ChatError) as raised:
        await pieces(answer)
    assert (raised.value.code, raised.value.message, answer.text) == (401, "No credentials.", "")


async def test_a_replacement_replaces_the_text(server: ModelServer, client: Client) -> None:
    replaced = {"code": 0, "message": "", "data": {"answer": "No comment.", "replace": True}}
    frames = framed(PONG, chunk("A secret"), json.dumps(replaced), MARKER)
    server.only(UPGRADED + frames, Act.HANG, raw=True)
    answer = client.ask("What?")
    assert await pieces(answer) == ["A secret", "No comment."]
    assert answer.text == "No comment."


async def test_a_message_that_is_no_frame_is_an_error_that_doubts_the_address(
    server: ModelServer, client: Client
) -> None:
    server.only(UPGRADED + framed("hello"), Act.HANG, raw=True)
    with pytest.raises(NetworkError, match="Is the address right"):
        await pieces(client.ask("What?"))


async def test_iterating_again_ends_again(server: ModelServer, client: Client) -> None:
    server.only(UPGRADED + framed(PONG, chunk("Once."), MARKER), Act.HANG, raw=True)
    answer = client.ask("What?")
    assert (await pieces(answer), await pieces(answer)) == (["Once."], [])


async def test_a_closed_client_lets_go_of_its_answers(server: ModelServer, client: Client) -> None:
    """Who still waits for one is told that no more comes, and the connection is closed."""
    server.only(UPGRADED + framed(PONG, chunk("Half")), Act.HANG, raw=True)
    answer = client.ask("What?")
    assert await anext(answer) == "Half"
    waiting = asyncio.create_task(pieces(answer))
    await client.close()
    assert await waiting == []
    await server.closed(0)


async def test_cancelling_a_complete_answer_is_harmless(server: ModelServer, client: Client) -> None:
    server.only(UPGRADED + framed(PONG, chunk("Done."), MARKER), Act.HANG, raw=True)
    answer = client.ask("What?")
    await pieces(answer)
    await answer.cancel()
    assert len(server.requests) == 1


async def test_cancelling_over_a_dead_socket_leaves_the_error_to_the_reader(
    server: ModelServer, client: Client
) -> None:
    gate = asyncio.Event()
    server.only(UPGRADED + framed(PONG, chunk("Half")), gate, Act.RESET, raw=True)
    answer = client.ask("What?")
    assert await anext(answer) == "Half"
    gate.set()
    await answer.cancel()
    with pytest.raises(NetworkError):
        await anext(answer)
