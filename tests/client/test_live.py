"""The client and the service as they are, on a live server."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ragchat.client import ChatError, Client, sse
from ragchat.events import Token
from tests.client.relay import Relay
from tests.client.scripts import pieces
from tests.fakes.backend import ScriptedBackend, Step, words
from tests.live import Live, scripted, serving

TEXT = "Eins, zwei, drei: 第二段 says \u2028 three things [ID:1]."

both_ways = pytest.mark.parametrize("way", ["websocket", "sse"])


@contextlib.asynccontextmanager
async def client_of(live: Live, way: str, token: str | None = None) -> AsyncIterator[Client]:
    """A client; over SSE it stands behind a proxy that refuses sockets."""
    async with Relay(live.url) as relay:
        url = relay.url if way == "sse" else live.url
        async with Client(url, live.token if token is None else token) as client:
            yield client


@both_ways
async def test_the_answer_is_what_the_service_saved(tmp_path: Path, way: str) -> None:
    async with serving(scripted(tmp_path, words(TEXT))) as live, client_of(live, way) as client:
        answer = client.ask("What?")
        assert "".join(await pieces(answer)) == answer.text == TEXT
        assert [chunk["id"] for chunk in answer.reference["chunks"]] == ["chunk0", "chunk1"]
        assert [document["doc_name"] for document in answer.reference["doc_aggs"]] == ["1.md"]
        assert (answer.run_id is None) == (way == "websocket")
        assert answer.session_id is not None
        assert await live.messages(answer.session_id) == [("user", "What?"), ("assistant", TEXT)]


@both_ways
async def test_a_second_question_goes_into_the_same_session(tmp_path: Path, way: str) -> None:
    async with serving(scripted(tmp_path, words("Yes."))) as live, client_of(live, way) as client:
        first = client.ask("One?")
        await pieces(first)
        second = client.ask("Two?", session_id=first.session_id)
        await pieces(second)
        assert second.session_id == first.session_id
        assert (await live.runs(), await live.sessions()) == (2, 1)


@both_ways
async def test_cancel_stops_the_backend_and_keeps_the_text(tmp_path: Path, way: str) -> None:
    backend = ScriptedBackend([Token("Half an answer"), asyncio.Event()])
    async with serving(scripted(tmp_path, backend)) as live, client_of(live, way) as client:
        answer = client.ask("What?")
        assert await anext(answer) == "Half an answer"
        await answer.cancel()
        assert await pieces(answer) == []
        assert answer.session_id is not None
        assert await live.messages(answer.session_id) == [("user", "What?"), ("assistant", "Half an answer")]
        assert backend.closed.is_set()


@both_ways
async def test_cancel_before_the_answer_has_begun_stops_it_too(tmp_path: Path, way: str) -> None:
    async with serving(scripted(tmp_path, [asyncio.Event()])) as live, client_of(live, way) as client:
        answer = client.ask("What?")
        await answer.cancel()
        assert await pieces(answer) == []
        assert await live.runs() == 1


@both_ways
@pytest.mark.parametrize(("token", "code"), [("", 401), ("ragchat-wrong", 401)])
async def test_a_stranger_is_told_so(tmp_path: Path, way: str, token: str, code: int) -> None:
    async with serving(scripted(tmp_path)) as live, client_of(live, way, token) as client:
        with pytest.raises(ChatError) as raised:
            await pieces(client.ask("What?"))
        assert raised.value.code == code
        assert await live.runs() == 0


@both_ways
async def test_a_wrong_question_has_the_services_explanation(tmp_path: Path, way: str) -> None:
    async with serving(scripted(tmp_path)) as live, client_of(live, way) as client:
        with pytest.raises(ChatError, match="There is no chat 'nobody'") as raised:
            await pieces(client.ask("What?", chat_id="nobody"))
        assert raised.value.code == 404


@both_ways
async def test_a_failing_backend_leaves_the_text_so_far(tmp_path: Path, way: str) -> None:
    script: list[Step] = [Token("Half an "), RuntimeError("a defect")]
    async with serving(scripted(tmp_path, script)) as live, client_of(live, way) as client:
        answer = client.ask("What?")
        with pytest.raises(ChatError) as raised:
            await pieces(answer)
        assert (raised.value.code, answer.text) == (500, "Half an ")


@pytest.mark.parametrize("seed", range(10))
async def test_a_stream_that_is_cut_anywhere_is_the_same_text_of_one_run(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the first event on, which says what the run is."""
    monkeypatch.setattr(sse, "_FIRST_PAUSE", 0.001)
    chance = random.Random(seed)
    cuts = [chance.randint(500, 1500) for _ in range(5)]
    async with (
        serving(scripted(tmp_path, words(TEXT * 5))) as live,
        Relay(live.url, cuts) as relay,
        Client(relay.url, live.token) as client,
    ):
        answer = client.ask("What?")
        assert "".join(await pieces(answer)) == TEXT * 5
        assert await live.runs() == 1
        assert relay.cut > 0
