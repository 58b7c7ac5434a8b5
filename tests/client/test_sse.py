"""The client's event stream on networks that cut it, played by a scripted server."""

from __future__ import annotations

import json

import pytest

from ragchat.client import ChatError, Client, NetworkError, sse
from tests.client.scripts import MARKER, chunk, events, pieces, refused
from tests.fakes.model_server import Act, ModelServer


@pytest.fixture(autouse=True)
async def behind_a_proxy_that_refuses_sockets(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """… and with a client that does not wait long before it comes back."""
    monkeypatch.setattr(sse, "_FIRST_PAUSE", 0.001)
    server.script(refused(426), raw=True)


def cursors(server: ModelServer) -> list[str | None]:
    """The ``Last-Event-ID`` of each request for a stream."""
    return [request.headers.get("last-event-id") for request in server.requests if request.method == "POST"]


@pytest.mark.parametrize("end", [Act.CUT, Act.RESET])
async def test_a_cut_stream_goes_on_behind_its_last_complete_event(
    server: ModelServer, client: Client, end: Act
) -> None:
    whole = events(chunk("One "), chunk("two "), chunk("three."), MARKER)
    server.script(whole[: whole.index(b"two ")], end)
    server.script(events(chunk("two "), first=2), end)
    server.script(events(chunk("three."), MARKER, first=3))
    answer = client.ask("What?")
    assert await pieces(answer) == ["One ", "two ", "three."]
    assert cursors(server) == [None, "run:1", "run:2"]


async def test_a_stream_that_ends_politely_before_the_answer_does_goes_on(
    server: ModelServer, client: Client
) -> None:
    """A service that is being restarted ends its streams."""
    server.script(events(chunk("One ")))
    server.script(events(chunk("two."), MARKER, first=2))
    assert await pieces(client.ask("What?")) == ["One ", "two."]


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_service_that_is_away_for_a_moment_is_asked_again(
    server: ModelServer, client: Client, status: int
) -> None:
    server.script(events(chunk("One ")), Act.CUT)
    server.script(refused(status), raw=True)
    server.script(events(chunk("two."), MARKER, first=2))
    assert await pieces(client.ask("What?")) == ["One ", "two."]
    assert cursors(server) == [None, "run:1", "run:1"]


async def test_attempts_without_progress_are_bounded(server: ModelServer, client: Client) -> None:
    server.script(events(chunk("One ")), Act.CUT)
    server.script(Act.RESET)
    answer = client.ask("What?")
    with pytest.raises(NetworkError, match="8 attempts to continue the answer failed"):
        await pieces(answer)
    assert answer.text == "One "
    assert cursors(server) == [None, *["run:1"] * 8]


async def test_attempts_with_progress_are_not_bounded(server: ModelServer, client: Client) -> None:
    server.script(events(), Act.CUT)
    letters = [chr(ord("a") + number) for number in range(20)]
    for seq, letter in enumerate(letters, 1):
        server.script(events(chunk(letter), first=seq), Act.CUT)
    server.script(events(MARKER, first=21))
    assert await pieces(client.ask("What?")) == letters


async def test_a_stream_that_is_cut_before_it_says_its_run_is_not_asked_for_twice(
    server: ModelServer, client: Client
) -> None:
    """Nobody knows whether the question has arrived."""
    server.script(Act.HEADERS, Act.CUT)
    with pytest.raises(NetworkError, match="No answer from"):
        await pieces(client.ask("What?"))
    assert cursors(server) == [None]


async def test_separators_of_unicode_do_not_end_a_line(server: ModelServer, client: Client) -> None:
    server.script(events(chunk("a\u2028b\u2029c\x85d"), MARKER))
    answer = client.ask("What?")
    await pieces(answer)
    assert answer.text == "a\u2028b\u2029c\x85d"


async def test_comments_are_passed_over(server: ModelServer, client: Client) -> None:
    server.script(b": heartbeat\n\n" + events(chunk("One.")) + b": heartbeat\n\n" + events(MARKER, first=2))
    assert await pieces(client.ask("What?")) == ["One."]


async def test_cancel_goes_to_the_run(server: ModelServer, client: Client) -> None:
    server.script(events(chunk("One ")), Act.HANG)
    answer = client.ask("What?")
    assert await anext(answer) == "One "
    server.only(b"{}")
    await answer.cancel()
    assert (server.requests[-1].method, server.requests[-1].path) == ("POST", "/assistant/api/v1/runs/run/cancel")


async def test_cancel_before_the_run_is_known_is_sent_as_soon_as_it_is(
    server: ModelServer, client: Client
) -> None:
    server.script(events(), Act.HANG)
    server.script(b"{}")
    answer = client.ask("What?")
    await answer.cancel()
    await server.received(3)
    assert server.requests[-1].path == "/assistant/api/v1/runs/run/cancel"


async def test_a_cancel_that_is_refused_is_an_error(server: ModelServer, client: Client) -> None:
    server.script(events(chunk("One ")), Act.HANG)
    answer = client.ask("What?")
    await anext(answer)
    server.only(refused(404), raw=True)
    with pytest.raises(ChatError, match="HTTP 404"):
        await answer.cancel()


async def test_a_cancel_that_does_not_arrive_is_an_error(server: ModelServer, client: Client) -> None:
    server.script(events(chunk("One ")), Act.HANG)
    answer = client.ask("What?")
    await anext(answer)
    server.only(Act.RESET, raw=True)
    with pytest.raises(NetworkError, match="Can't tell"):
        await answer.cancel()


async def test_an_error_in_the_middle_keeps_the_text(server: ModelServer, client: Client) -> None:
    error = json.dumps({"code": 500, "message": "The model failed.", "data": {"answer": "", "reference": []}})
    server.script(events(chunk("Half "), error, MARKER))
    answer = client.ask("What?")
    with pytest.raises(ChatError, match="The model failed") as raised:
        await pieces(answer)
    assert (raised.value.code, answer.text) == (500, "Half ")


async def test_a_refusal_has_the_services_own_words(server: ModelServer, client: Client) -> None:
    error = {"code": 404, "message": "There is no chat 'x'.", "data": {"answer": "", "reference": []}}
    server.script(json.dumps(error).encode(), status=404)
    with pytest.raises(ChatError) as raised:
        await pieces(client.ask("What?", chat_id="x"))
    assert (raised.value.code, raised.value.message) == (404, "There is no chat 'x'.")


async def test_a_refusal_of_somebody_else_doubts_the_address(server: ModelServer, client: Client) -> None:
    server.script(refused(502), raw=True)
    with pytest.raises(ChatError, match=r"HTTP 502\. Is the address right"):
        await pieces(client.ask("What?"))


async def test_an_endless_message_is_an_error(server: ModelServer, client: Client) -> None:
    server.script(b"data: " + b"x" * (2 * 1024 * 1024), Act.HANG)
    with pytest.raises(NetworkError, match="too long"):
        await pieces(client.ask("What?"))
