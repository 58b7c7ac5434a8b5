"""The SSE completion: what a stream looks like, and how a reader that was cut off goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from ragchat.backends.contract import Finish
from ragchat.errors import BackendError, GoneError, RequestError
from ragchat.events import Token
from ragchat.sse import MessageReader
from ragchat.transports.sse import frame, parse_cursor
from tests.fakes.backend import ScriptedBackend
from tests.live import PASSAGES, Live, ask, decode, scripted, serving

ROUTE = "/v1/conversation/completion"


class Reading:
    """A stream that is being read."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._reader = MessageReader()
        self.chunks = response.aiter_raw()

    async def until(self, text: str) -> str:
        """Read on until the answer so far contains ``text``; return the answer so far."""
        answer = ""
        async for chunk in self.chunks:
            for message in self._reader.feed(chunk):
                data = decode(message.data)["data"]
                answer += data["answer"] if data is not True else ""
            if text in answer:
                return answer
        raise AssertionError(f"the stream ended with {answer!r}")

    @property
    def cursor(self) -> str:
        return self._reader.last_event_id


async def test_a_stream_begins_with_its_retry_and_an_id_that_continues_it(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with serving(scripted(tmp_path, [gate, Token("a"), Finish()])) as live, live.http() as http:
        async with http.stream("POST", ROUTE, json=ask()) as response:
            first = await anext(response.aiter_raw())
        retry, identifier, *_ = first.decode().split("\n")
        assert retry == "retry: 2000"
        gate.set()
        resumed = await http.get(ROUTE, params={"last_event_id": identifier.removeprefix("id: ")})
        frames = [decode(message.data) for message in MessageReader().feed(resumed.content)]
        assert frames[0]["data"]["answer"] == "a"
        assert await live.runs() == 1


async def test_the_headers_keep_proxies_from_holding_it_back(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path)) as live, live.http() as http:
        response = await http.post(ROUTE, json=ask(), headers={"Accept-Encoding": "gzip, br"})
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache, no-transform"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert "Content-Encoding" not in response.headers


async def test_after_the_end_a_reconnect_gets_204_and_stops(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path)) as live, live.http() as http:
        response = await http.post(ROUTE, json=ask())
        reader = MessageReader()
        list(reader.feed(response.content))
        again = await http.get(ROUTE, headers={"Last-Event-ID": reader.last_event_id})
        assert (again.status_code, again.content) == (204, b"")
        assert await live.runs() == 1


async def test_a_reader_that_comes_back_gets_what_it_missed_and_goes_on_live(tmp_path: Path) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    script = [Token("one "), gates[0], Token("two "), gates[1], Token("three"), Finish()]
    async with serving(scripted(tmp_path, script)) as live, live.http() as http:
        async with http.stream("POST", ROUTE, json=ask()) as response:
            reading = Reading(response)
            assert await reading.until("one ") == "one "
        gates[0].set()
        async with http.stream("GET", ROUTE, headers={"Last-Event-ID": reading.cursor}) as response:
            again = Reading(response)
            assert await again.until("two ") == "two "
            gates[1].set()
            assert await again.until("three") == "three"


async def test_a_cursor_behind_the_end_is_an_error_and_no_silent_gap(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with serving(scripted(tmp_path, [Token("a"), gate, Finish()])) as live, live.http() as http:
        async with http.stream("POST", ROUTE, json=ask()) as response:
            reading = Reading(response)
            await reading.until("a")
            run_id = reading.cursor.partition(":")[0]
            beyond = await http.get(ROUTE, headers={"Last-Event-ID": f"{run_id}:500"})
            gate.set()
    assert beyond.status_code == 400


async def test_several_viewers_see_the_same_answer(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with serving(scripted(tmp_path, [Token("a"), gate, Token("b"), Finish()])) as live, live.http() as http:
        async with http.stream("POST", ROUTE, json=ask()) as response:
            reading = Reading(response)
            await reading.until("a")
            run_id = reading.cursor.partition(":")[0]
            viewers = [
                asyncio.create_task(http.get(ROUTE, headers={"Last-Event-ID": f"{run_id}:0"})) for _ in range(5)
            ]
            gate.set()
            contents = {(await viewer).content for viewer in viewers}
    assert len({text_of(content) for content in contents} | {"ab"}) == 1


def text_of(content: bytes) -> str:
    frames = [decode(message.data) for message in MessageReader().feed(content)]
    return "".join(frame["data"]["answer"] for frame in frames if frame["data"] is not True)


async def test_silence_is_filled_with_comments(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with serving(scripted(tmp_path, [gate, Finish()], heartbeat=0.02)) as live, live.http() as http:
        async with http.stream("POST", ROUTE, json=ask()) as response:
            seen = b""
            async for chunk in response.aiter_raw():
                seen += chunk
                if seen.count(b": heartbeat\n\n") >= 2:
                    gate.set()
    assert seen.count(b"data: true") == 0
    assert b'"data":true' in seen


async def test_a_whole_answer_is_one_json_body(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path)) as live, live.http() as http:
        for answer in (
            await http.post(ROUTE, json=ask(stream=False)),
            await http.get(ROUTE, params=ask(stream="false")),
        ):
            assert answer.headers["Content-Type"] == "application/json"
            assert (answer.json()["code"], answer.json()["data"]["answer"]) == (0, "one two three")
            assert answer.json()["data"]["reference"]["total"] == len(PASSAGES)


async def test_a_whole_answer_that_failed_has_the_status_of_its_error(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path, [BackendError("It broke.")])) as live, live.http() as http:
        answer = await http.post(ROUTE, json=ask(stream=False))
    assert (answer.status_code, answer.json()["message"]) == (500, "The answer failed. It broke.")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"content": b"hello"}, 400),
        ({"content": b"[]"}, 400),
        ({"content": b""}, 400),
        ({"content": '{"chat_id":"default","question":"café"}'.encode("latin-1")}, 400),
        ({"json": {"chat_id": "default"}}, 400),
        ({"json": ask("  ")}, 400),
        ({"json": ask(chat_id="nope")}, 404),
        ({"json": ask(session_id="nope")}, 404),
        ({"json": ask(), "headers": {"Last-Event-ID": "nonsense"}}, 400),
        ({"json": ask(), "headers": {"Last-Event-ID": "nope:1"}}, 404),
        ({"json": ask(), "headers": {"Authorization": "Bearer wrong"}}, 401),
        ({"content": b" " * 300_000}, 413),
        ({"method": "GET", "params": ask(), "content": b"a body"}, 400),
    ],
)
async def test_bad_input_gets_the_envelope_under_the_right_status_and_leaves_no_trace(
    tmp_path: Path, request_: dict[str, object], code: int
) -> None:
    async with serving(scripted(tmp_path)) as live, live.http() as http:
        answer = await http.request(**{"method": "POST", "url": ROUTE, **request_})  # type: ignore[arg-type]
        assert (answer.status_code, answer.json()["code"]) == (code, code)
        assert answer.json()["data"]["answer"].startswith("**ERROR**: ")
        assert (await live.runs(), await live.sessions()) == (0, 0)


async def test_a_chunked_body_is_counted_while_it_is_read(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 1000

    async with serving(scripted(tmp_path, max_message_bytes=10_000)) as live, live.http() as http:
        assert (await http.post(ROUTE, content=chunks())).status_code == 413


async def test_a_run_whose_events_are_no_longer_kept_is_gone_and_its_message_saved(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path, log_retention=0.01)) as live, live.http() as http:
        response = await http.post(ROUTE, json=ask())
        reader = MessageReader()
        session_id = decode(next(reader.feed(response.content)).data)["data"]["session_id"]
        run_id = reader.last_event_id.partition(":")[0]
        await gone(live, run_id)
        answer = await http.get(ROUTE, headers={"Last-Event-ID": f"{run_id}:1"})
        assert (answer.status_code, answer.json()["code"]) == (410, 410)
        assert (await live.messages(session_id))[-1] == ("assistant", "one two three")


async def gone(live: Live, run_id: str) -> None:
    with contextlib.suppress(GoneError):
        while True:
            await live.ragchat.log.tail(run_id)
            await asyncio.sleep(0)


async def test_too_many_answers_at_once_are_refused_with_retry_after(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with serving(scripted(tmp_path, [Token("a"), gate, Finish()], max_runs=1)) as live, live.http() as http:
        async with http.stream("POST", ROUTE, json=ask()) as response:
            await Reading(response).until("a")
            refused = await http.post(ROUTE, json=ask())
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
            gate.set()


async def test_cancel_over_http_stops_the_backend_and_ends_every_stream(tmp_path: Path) -> None:
    backend = ScriptedBackend([Token("half"), asyncio.Event()])
    async with serving(scripted(tmp_path, backend)) as live, live.http() as http:
        async with http.stream("POST", ROUTE, json=ask()) as response:
            reading = Reading(response)
            await reading.until("half")
            run_id = reading.cursor.partition(":")[0]
            first = await http.post(f"/api/v1/runs/{run_id}/cancel")
            again = await http.post(f"/api/v1/runs/{run_id}/cancel")
            assert b'"data":true' in b"".join([chunk async for chunk in reading.chunks])
        assert backend.closed.is_set()
        assert first.json() == again.json()
        assert (first.json()["status"], first.json()["finish_reason"]) == ("cancelled", "cancelled")


def test_frames_are_written_with_their_id() -> None:
    assert frame("r1", [(3, b'{"a":1}'), (4, b"{}")]) == (b'id: r1:3\ndata: {"a":1}\n\nid: r1:4\ndata: {}\n\n',)
    assert frame("r1", []) == ()


@pytest.mark.parametrize("cursor", ["", ":1", "r1", "r1:", "r1:x", "r1:-1", "r1:١", "r1:99999999999999999999"])
def test_a_cursor_that_no_stream_ever_sent_is_an_error(cursor: str) -> None:
    with pytest.raises(RequestError):
        parse_cursor(cursor)


def test_a_cursor_is_a_run_and_a_number() -> None:
    assert parse_cursor("r:1:42") == ("r:1", 42)
