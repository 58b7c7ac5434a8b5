"""A model's server that fails in every way: one terminal frame, the partial answer kept, no second call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from ragchat import RagChat
from ragchat.settings import load
from ragchat.sse import MessageReader
from tests.fakes.backend import FixedRetriever
from tests.fakes.model_server import Act, ModelServer, Step, delta, sse
from tests.live import Live, ask, decode, serving

ROUTE = "/v1/conversation/completion"
HALF = sse(delta("half "), delta("an answer"))
KEPT = "half an answer"

FAULTS: dict[str, tuple[list[Step], dict[str, Any], str]] = {
    "refused: 401": ([b'{"error":{"message":"bad key"}}'], {"status": 401}, ""),
    "refused: 404": ([b"not here"], {"status": 404}, ""),
    "busy: 429": ([b'{"error":{"message":"slow down"}}'], {"status": 429, "headers": {"Retry-After": "7"}}, ""),
    "broken: 500": ([b"<html>oops</html>"], {"status": 500}, ""),
    "broken: 503": ([b""], {"status": 503}, ""),
    "hangs up before the headers": ([Act.RESET], {"raw": True}, ""),
    "says garbage": ([b"\x00\xff\xfe garbage \r\n\r\n"], {"raw": True}, ""),
    "streams garbage": ([sse("{{{")], {}, ""),
    "never answers": ([Act.HANG], {}, ""),
    "hangs in the middle": ([HALF, Act.HANG], {}, KEPT),
    "sends only keep-alives": ([HALF, Act.COMMENTS], {}, KEPT),
    "is reset in the middle": ([HALF, Act.RESET], {}, KEPT),
    "is cut in the middle": ([HALF, Act.CUT], {}, KEPT),
    "ends without an end": ([HALF], {}, KEPT),
    "reports an error in the middle": ([HALF, sse('{"error":{"message":"out of memory"}}')], {}, KEPT),
    "reports a bare error in the middle": ([HALF, b'error: {"message":"oom"}\n\n'], {}, KEPT),
    "sends an endless line": ([HALF, b"data: " + b"x" * 2_000_000], {}, KEPT),
    "splits a character": ([sse(delta("中"))[:-8], sse(delta("中"))[-8:], Act.CUT], {}, "中"),
}


@asynccontextmanager
async def with_model(folder: Path) -> AsyncIterator[tuple[Live, ModelServer]]:
    async with ModelServer() as model:
        settings = load(
            data_dir=folder, port=0, drain_timeout=0.1, openai_base_url=model.base_url, openai_model="m",
            openai_api_key="sk-canary", backend_idle_timeout=0.5, backend_connect_timeout=0.5,
        )  # fmt: skip
        async with serving(RagChat(settings, retriever=FixedRetriever())) as live:
            yield live, model


@pytest.mark.parametrize(("steps", "options", "kept"), FAULTS.values(), ids=FAULTS)
async def test_a_run_ends_once_keeps_its_text_and_is_not_tried_again(
    tmp_path: Path, steps: list[Step], options: dict[str, Any], kept: str
) -> None:
    async with with_model(tmp_path) as (live, model), live.http() as http:
        model.only(*steps, **options)
        answer = await http.post(ROUTE, json=ask())
        frames = [decode(message.data) for message in MessageReader().feed(answer.content)]
        *deltas, error, reference, marker = frames
        assert marker["data"] is True
        assert (error["code"] in {500, 503}, error["data"]["answer"][:11]) == (True, "**ERROR**: ")
        assert "sk-canary" not in answer.text
        assert [frame["code"] for frame in deltas] == [0] * len(deltas)
        assert "".join(frame["data"]["answer"] for frame in deltas) == kept
        session_id = reference["data"]["session_id"]
        assert (await live.messages(session_id))[-1] == ("assistant", kept)
        assert len(model.requests) == 1


async def test_a_working_model_is_streamed_and_its_usage_kept(tmp_path: Path) -> None:
    usage = '{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
    async with with_model(tmp_path) as (live, model), live.http() as http:
        model.only(HALF, sse(delta("", finish_reason="stop"), usage, "[DONE]"))
        answer = await http.post(ROUTE, json=ask("为什么?"))
        reader = MessageReader()
        frames = [decode(message.data) for message in reader.feed(answer.content)]
        assert [frame["code"] for frame in frames] == [0] * len(frames)
        run = await live.run(reader.last_event_id.partition(":")[0])
        assert (run.status, run.usage["total_tokens"]) == ("completed", 5)
        messages = model.requests[0].json()["messages"]
        assert (messages[-1], messages[0]["role"]) == ({"role": "user", "content": "为什么?"}, "system")


async def test_cancel_closes_the_models_connection_from_the_socket_and_over_http(tmp_path: Path) -> None:
    async with with_model(tmp_path) as (live, model), live.http() as http:
        model.only(HALF, Act.HANG)
        async with connect(live.socket_url, additional_headers=live.headers, proxy=None) as socket:
            await socket.send('{"chat_id":"default","question":"?"}')
            session_id = decode(await socket.recv())["data"]["session_id"]
            await socket.send('{"type":"cancel"}')
            async with asyncio.timeout(1):
                await model.closed(0)
            while decode(await socket.recv())["data"] is not True:
                pass
            assert (await live.messages(session_id))[-1] == ("assistant", KEPT)
        async with http.stream("POST", ROUTE, json=ask()) as response:
            reader = MessageReader()
            chunks = response.aiter_raw()
            while not list(reader.feed(await anext(chunks))):
                pass
            run_id = reader.last_event_id.partition(":")[0]
            assert (await http.post(f"/api/v1/runs/{run_id}/cancel")).json()["status"] == "cancelled"
            async with asyncio.timeout(1):
                await model.closed(1)


async def test_a_cancel_before_the_model_has_answered_closes_its_connection_too(tmp_path: Path) -> None:
    async with with_model(tmp_path) as (live, model):
        model.only(Act.HANG, raw=True)
        async with connect(live.socket_url, additional_headers=live.headers, proxy=None) as socket:
            await socket.send('{"chat_id":"default","question":"?"}')
            await model.received()
            await socket.send('{"type":"cancel"}')
            async with asyncio.timeout(1):
                await model.closed(0)
            while decode(await socket.recv())["data"] is not True:
                pass
