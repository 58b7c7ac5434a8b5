"""Every transport serves the same run from the same log, however often a client is cut off."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from websockets.asyncio.client import connect

from ragchat.backends.contract import Finish, Prompt
from ragchat.errors import BackendError
from ragchat.events import Observation, Replace, Thinking, Token, ToolCall
from ragchat.sse import MessageReader
from tests.fakes.backend import Step, words
from tests.live import Live, ask, decode, scripted, serving

Frames = list[dict[str, Any]]

SCRIPTS: dict[str, list[Step]] = {
    "an answer with citations": words("It is so [ID:0] and also so [ID:1]."),
    "Chinese, emoji, line separators": [Token("中断的回答🎉"), Token('\u2028\u2029\x85 \r\n\n"\\'), Finish()],
    "what no database takes": [Token("a\0b"), Thinking("\0"), Replace("\ud83c\0c"), Finish()],
    "nothing at all": [Finish()],
    "thoughts and tools": [
        Thinking("hm"), ToolCall("t1", "search", {"q": 1}), Observation("t1", "x"), Token("so"), Finish("length"),
    ],
    "a replacement": [Token("bad"), Replace("good"), Finish()],
    "a failure in the middle": [Token("half"), BackendError("The model broke off.")],
    "a failure at once": [BackendError("No model.")],
    "a long burst": [*[Token(f"{number} ") for number in range(5000)], Finish()],
}  # fmt: skip


async def over_websocket(live: Live, question: str) -> Frames:
    frames: Frames = []
    async with connect(live.socket_url, additional_headers=live.headers, proxy=None) as socket:
        await socket.send(msgspec.json.encode(ask(question)).decode())
        while not frames or frames[-1]["data"] is not True:
            frames.append(decode(await socket.recv()))
    return frames


async def over_post(live: Live, question: str) -> Frames:
    async with live.http() as http:
        return sse_frames(await http.post("/v1/conversation/completion", json=ask(question)))


async def over_get(live: Live, question: str) -> Frames:
    query = {**ask(question), "token": live.token}
    async with httpx.AsyncClient(base_url=live.url, trust_env=False) as http:
        return sse_frames(await http.get("/v1/conversation/completion", params=query))


def sse_frames(answer: httpx.Response) -> Frames:
    assert answer.status_code == 200
    return [decode(message.data) for message in MessageReader().feed(answer.content)]


def comparable(frames: Frames) -> Frames:
    """Frames without what differs from run to run, and with neighbouring deltas joined."""
    joined: Frames = []
    for frame in frames:
        data = frame["data"]
        if isinstance(data, dict):
            data.pop("id", None)
            data.pop("session_id", None)
        plain = isinstance(data, dict) and data.get("reference") == {} and "replace" not in data
        if plain and joined and joined[-1].get("plain"):
            joined[-1]["data"]["answer"] += data["answer"]
        else:
            joined.append({**frame, "plain": plain})
    return joined


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_all_transports_tell_the_same(tmp_path: Path, script: list[Step]) -> None:
    async with serving(scripted(tmp_path, script)) as live:
        told = [
            comparable(await transport(live, "同一个问题?")) for transport in (over_websocket, over_post, over_get)
        ]
    assert told[0] == told[1] == told[2]
    assert [frame["data"] for frame in told[0]].count(True) == 1
    assert told[0][-1]["data"] is True


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_what_was_streamed_is_what_was_saved(tmp_path: Path, script: list[Step]) -> None:
    async with serving(scripted(tmp_path, script)) as live:
        frames = await over_post(live, "What?")
        text = ""
        for frame in frames:
            data = frame["data"]
            if isinstance(data, dict) and frame["code"] == 0:
                text = data["answer"] if data.get("replace") else text + data["answer"]
        [session_id] = {f["data"]["session_id"] for f in frames if f["code"] == 0 and f["data"] is not True}
        assert (await live.messages(session_id))[1] == ("assistant", text)


async def test_one_answer_comes_out_of_many_cuts(tmp_path: Path) -> None:
    """SSE is cut at random bytes and continued with Last-Event-ID: always the same text, always one run."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    text = "".join(chance.choice("abc 中文🎉\u2028\n") for _ in range(3000))

    def script(prompt: Prompt) -> list[Step]:
        pieces: list[Step] = []
        rest = text
        while rest:
            size = chance.randrange(1, 40)
            pieces.append(Token(rest[:size]))
            rest = rest[size:]
            if chance.random() < 0.2:
                pieces.append(pause())
        return [*pieces, Finish()]

    async with serving(scripted(tmp_path, script)) as live, live.http() as http:
        for _ in range(25):
            frames, requests = await read_with_cuts(http, chance)
            assert "".join(frame["data"]["answer"] for frame in frames if frame["data"] is not True) == text
            assert frames[-1]["data"] is True
            assert requests > 1
        assert await live.runs() == 25


def pause() -> asyncio.Event:
    """Lets the loop turn before the script goes on, so that answers are cut while they are written."""
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(0.001, event.set)
    return event


async def read_with_cuts(http: httpx.AsyncClient, chance: random.Random) -> tuple[Frames, int]:
    """One answer, its connection cut again and again, until the server says that there is nothing more."""
    frames: Frames = []
    cursor, requests = "", 0
    while True:
        requests += 1
        headers = {"Last-Event-ID": cursor} if cursor else {}
        request = http.stream("POST", "/v1/conversation/completion", json=ask(), headers=headers)
        async with request as answer:
            if answer.status_code == 204:
                return frames, requests
            assert answer.status_code == 200
            reader, allowed = MessageReader(), chance.randrange(150, 12_000)
            async for data in answer.aiter_raw(chance.randrange(1, 400)):
                frames += [decode(message.data) for message in reader.feed(data[:allowed])]
                cursor = reader.last_event_id or cursor
                allowed -= len(data)
                if allowed <= 0:
                    break
