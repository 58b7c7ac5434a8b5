"""The chat socket: what it answers, what it refuses, and what it survives."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket as socketlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from quart import Request, Websocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ragchat import Principal, RagChat
from ragchat.backends.contract import Finish, Prompt
from ragchat.events import Token
from ragchat.settings import load
from tests.fakes.backend import ScriptedBackend, Step, words
from tests.live import PASSAGES, Live, ask, decode, scripted, serving

SECRET = "a secret of at least 32 bytes, for tests"


@asynccontextmanager
async def socket(live: Live, **options: Any) -> AsyncIterator[ClientConnection]:
    options = {"additional_headers": live.headers, "proxy": None, "compression": None, **options}
    async with connect(live.socket_url, **options) as connection:
        yield connection


async def say(connection: ClientConnection, message: Any) -> None:
    await connection.send(json.dumps(message, ensure_ascii=False))


async def answer(connection: ClientConnection) -> list[dict[str, Any]]:
    """The frames of one answer, up to its marker."""
    frames: list[dict[str, Any]] = []
    while not frames or frames[-1]["data"] is not True:
        frames.append(decode(await connection.recv()))
    return frames


def text(frames: list[dict[str, Any]]) -> str:
    return "".join(frame["data"]["answer"] for frame in frames if frame["data"] is not True)


async def test_a_question_is_answered_with_deltas_the_reference_and_the_marker(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path, words("The answer [ID:0]."))) as live, socket(live) as connection:
        await say(connection, ask("为什么?"))
        *deltas, last, marker = await answer(connection)
        assert text(deltas) == "The answer [ID:0]."
        assert last["data"]["reference"]["total"] == len(PASSAGES)
        assert marker == {"code": 0, "message": "", "data": True}
        assert {frame["data"]["session_id"] for frame in [*deltas, last]} == {last["data"]["session_id"]}
        assert await live.messages(last["data"]["session_id"]) == [
            ("user", "为什么?"),
            ("assistant", "The answer [ID:0]."),
        ]


async def test_a_follow_up_sees_the_conversation(tmp_path: Path) -> None:
    backend = ScriptedBackend(words("It is."))
    async with serving(scripted(tmp_path, backend)) as live, socket(live) as connection:
        await say(connection, ask("Is it?"))
        session_id = (await answer(connection))[-2]["data"]["session_id"]
        await say(connection, ask("Why?", session_id=session_id))
        assert (await answer(connection))[-2]["data"]["session_id"] == session_id
    assert [(turn.role, turn.content) for turn in backend.prompts[1].turns if turn.role != "system"] == [
        ("user", "Is it?"),
        ("assistant", "It is."),
        ("user", "Why?"),
    ]


async def test_a_whole_answer_is_one_frame_and_the_marker(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path)) as live, socket(live) as connection:
        await say(connection, ask(stream=False))
        whole, marker = await answer(connection)
        assert (whole["data"]["answer"], marker["data"]) == ("one two three", True)


async def test_a_second_question_waits_for_the_first_ones_marker(tmp_path: Path) -> None:
    gate = asyncio.Event()

    def script(prompt: Prompt) -> list[Step]:
        return [Token(prompt.question), *([gate] if prompt.question == "first" else []), Finish()]

    async with serving(scripted(tmp_path, script)) as live, socket(live) as connection:
        await say(connection, ask("first"))
        await say(connection, ask("second"))
        assert decode(await connection.recv())["data"]["answer"] == "first"
        gate.set()
        assert (await answer(connection))[-1]["data"] is True
        assert text(await answer(connection)) == "second"


async def test_ping_is_answered_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with serving(scripted(tmp_path, [Token("a"), gate, Finish()])) as live, socket(live) as connection:
        await say(connection, ask())
        await connection.recv()
        await say(connection, {"type": "ping"})
        assert decode(await connection.recv()) == {"type": "pong"}
        gate.set()
        assert (await answer(connection))[-1]["data"] is True


async def test_cancel_ends_the_answer_keeps_its_text_and_stops_the_backend(tmp_path: Path) -> None:
    backend = ScriptedBackend([Token("half"), asyncio.Event()])
    async with serving(scripted(tmp_path, backend)) as live, socket(live) as connection:
        await say(connection, ask())
        first = decode(await connection.recv())
        await say(connection, {"type": "cancel"})
        assert (await answer(connection))[-1]["data"] is True
        assert backend.closed.is_set()
        assert (await live.messages(first["data"]["session_id"]))[-1] == ("assistant", "half")
        await say(connection, {"type": "cancel"})  # again is harmless
        await say(connection, {"type": "ping"})
        assert decode(await connection.recv()) == {"type": "pong"}


async def test_a_cancel_sent_right_behind_the_question_stops_it(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path, [asyncio.Event(), Finish()])) as live, socket(live) as connection:
        await say(connection, ask())
        await say(connection, {"type": "cancel"})
        assert (await answer(connection))[-1]["data"] is True


async def test_a_client_that_leaves_loses_nothing(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with serving(scripted(tmp_path, [Token("half "), gate, Token("whole"), Finish()])) as live:
        async with socket(live) as connection:
            await say(connection, ask())
            session_id = decode(await connection.recv())["data"]["session_id"]
        run_id = live.ragchat.supervisor.busy(session_id)
        assert run_id is not None
        gate.set()
        await live.ragchat.supervisor.ended(run_id)
        assert (await live.messages(session_id))[-1] == ("assistant", "half whole")


async def test_a_busy_session_refuses_a_second_question(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with (
        serving(scripted(tmp_path, [Token("a"), gate, Finish()])) as live,
        socket(live) as one,
        socket(live) as two,
    ):
        await say(one, ask())
        session_id = decode(await one.recv())["data"]["session_id"]
        await say(two, ask(session_id=session_id))
        assert decode(await two.recv())["code"] == 409
        gate.set()
        await answer(one)
        assert len(await live.messages(session_id)) == 2


BAD = {
    "not JSON": ("hello", 400, "not valid JSON"),
    "no object": ("[1]", 400, "must be a JSON object"),
    "no question": ('{"chat_id":"default"}', 400, "`question` is missing"),
    "an empty question": ('{"chat_id":"default","question":" \\n "}', 400, "`question` is empty"),
    "no chat": ('{"question":"?"}', 400, "`chat_id` is missing"),
    "an unknown chat": ('{"chat_id":"nope","question":"?"}', 404, "no chat 'nope'"),
    "an unknown session": ('{"chat_id":"default","question":"?","session_id":"nope"}', 404, "no session 'nope'"),
    "a chat that is a number": ('{"chat_id":7,"question":"?"}', 400, "`chat_id` is not as it should be"),
    "a question that is a list": ('{"chat_id":"default","question":["?"]}', 400, "`question` is not as it"),
    "a list with a number": ('{"chat_id":"default","question":"?","kb_ids":[1]}', 400, "`kb_ids[0]` is not"),
    "foreign datasets": ('{"chat_id":"default","question":"?","kb_ids":["other"]}', 404, "None of the `kb_ids`"),
    "an id that no database could hold": (json.dumps(ask(session_id="x" * 200)), 404, "no session"),
    "a question of nothing": ('{"chat_id":"default","question":"\\u0000"}', 400, "`question` is empty"),
    "an unknown file": ('{"chat_id":"default","question":"?","files":["f1"]}', 404, "no uploaded file 'f1'"),
    "an unknown type": ('{"type":"dance"}', 400, "'dance' is not known"),
    "a type that is a number": ('{"type":7}', 400, "7 is not known"),
    "an unknown run": ('{"type":"cancel","run_id":"nope"}', 404, "no run 'nope'"),
    "a run that is a number": ('{"type":"cancel","run_id":7}', 400, "`run_id` must be a string"),
    "a binary frame": (b'{"chat_id":"default","question":"?"}', 400, "Binary messages"),
    "an empty binary frame": (b"", 400, "Binary messages"),
    "an empty text": ("", 400, "not valid JSON"),
    "100,000-deep JSON": ("[" * 100_000 + "]" * 100_000, 400, "nested too deeply"),
    "a 5,000-digit number": ('{"chat_id":' + "9" * 5000 + "}", 400, "not valid JSON"),
    "NaN": ('{"chat_id":NaN}', 400, "not valid JSON"),
    "infinity": ('{"chat_id":1e999}', 400, "not valid JSON"),
    "a lone surrogate": ('{"chat_id":"default","question":"\\ud800"}', 400, "not valid JSON"),
    "a question of a million characters": (json.dumps(ask("x" * 40_000)), 413, "at most 32000 are accepted"),
}


async def test_bad_input_gets_an_answer_that_helps_and_leaves_no_trace(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path)) as live, socket(live) as connection:
        for name, (message, code, sentence) in BAD.items():
            await connection.send(message)
            frame = decode(await connection.recv())
            assert frame["code"] == code, (name, frame)
            assert sentence in frame["message"], (name, frame)
            assert frame["data"] == {"answer": f"**ERROR**: {frame['message']}", "reference": []}, name
        assert (await live.runs(), await live.sessions()) == (0, 0)
        await say(connection, ask())
        assert text(await answer(connection)) == "one two three", "the socket stayed open"


async def test_what_databases_refuse_is_asked_and_saved_all_the_same(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path, [Token("a\0b"), Finish()])) as live, socket(live) as connection:
        await say(connection, ask("why \0 not?"))
        session_id = (await answer(connection))[-2]["data"]["session_id"]
        assert await live.messages(session_id) == [("user", "why  not?"), ("assistant", "ab")]


async def test_an_oversized_frame_closes_with_1009(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path, max_message_bytes=10_000)) as live, socket(live) as connection:
        await connection.send("x" * 20_000)
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await connection.recv()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1009


async def test_who_floods_without_waiting_is_closed_with_1008(tmp_path: Path) -> None:
    async with (
        serving(scripted(tmp_path, [asyncio.Event()], max_pending_questions=3)) as live,
        socket(live) as connection,
    ):
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await say(connection, ask())
                await asyncio.sleep(0)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1008


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"additional_headers": {}}, id="no credentials"),
        pytest.param({"additional_headers": {"Authorization": "Bearer ragchat-wrong"}}, id="a wrong token"),
        pytest.param({"additional_headers": {"Authorization": "Bearer a.b.c"}}, id="a wrong JWT"),
        pytest.param({"additional_headers": {"Authorization": "Basic abc"}}, id="another scheme"),
    ],
)
async def test_who_is_not_known_is_told_so_and_closed_with_1008(tmp_path: Path, options: dict[str, Any]) -> None:
    async with serving(scripted(tmp_path, jwt_secret=SECRET)) as live, socket(live, **options) as connection:
        assert decode(await connection.recv())["code"] == 401
        with pytest.raises(ConnectionClosed) as caught:
            await connection.recv()
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1008


async def test_a_wrong_header_is_an_error_even_beside_a_right_query_token(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path)) as live:
        url = f"{live.socket_url}?token={live.token}"
        async with connect(url, additional_headers={"Authorization": "Bearer no"}, proxy=None) as connection:
            assert decode(await connection.recv())["code"] == 401


async def test_a_query_token_opens_the_socket(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path)) as live:
        async with connect(f"{live.socket_url}?token={live.token}", proxy=None) as connection:
            await say(connection, ask())
            assert text(await answer(connection)) == "one two three"


async def test_a_query_token_can_be_switched_off(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path, query_token=False)) as live:
        async with connect(f"{live.socket_url}?token={live.token}", proxy=None) as connection:
            assert decode(await connection.recv())["code"] == 401


async def test_a_socket_closes_when_its_token_runs_out_and_the_run_goes_on(tmp_path: Path) -> None:
    gate = asyncio.Event()
    token = jwt.encode({"sub": "ann", "exp": time.time() + 2}, SECRET)
    async with serving(scripted(tmp_path, [Token("a"), gate, Token("b"), Finish()], jwt_secret=SECRET)) as live:
        async with socket(live, additional_headers={"Authorization": f"Bearer {token}"}) as connection:
            await say(connection, ask())
            session_id = decode(await connection.recv())["data"]["session_id"]
            with pytest.raises(ConnectionClosed) as caught:
                await connection.recv()
        run_id = live.ragchat.supervisor.busy(session_id)
        assert run_id is not None
        gate.set()
        await live.ragchat.supervisor.ended(run_id)
        assert (await live.messages(session_id))[-1] == ("assistant", "ab")
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1008


async def test_sessions_and_runs_of_others_do_not_exist(tmp_path: Path) -> None:
    def bearer(user: str, tenant: str) -> dict[str, str]:
        claims = {"sub": user, "tenant": tenant, "exp": time.time() + 60}
        return {"Authorization": f"Bearer {jwt.encode(claims, SECRET)}"}

    gate = asyncio.Event()
    async with serving(scripted(tmp_path, [Token("a"), gate, Finish()], jwt_secret=SECRET)) as live:
        async with socket(live, additional_headers=bearer("ann", "default")) as mine:
            await say(mine, ask())
            session_id = decode(await mine.recv())["data"]["session_id"]
            run_id = live.ragchat.supervisor.busy(session_id)
            for user, tenant in (("bob", "default"), ("ann", "elsewhere")):
                async with socket(live, additional_headers=bearer(user, tenant)) as other:
                    for message in (ask(session_id=session_id), {"type": "cancel", "run_id": run_id}):
                        await say(other, message)
                        assert decode(await other.recv())["code"] == 404
            gate.set()
            assert (await answer(mine))[-1]["data"] is True


async def test_subprotocols_that_are_not_spoken_are_refused_before_the_upgrade(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path)) as live:
        with pytest.raises(InvalidStatus) as caught:
            await connect(live.socket_url, subprotocols=["graphql-ws"], proxy=None)  # type: ignore[list-item]
    assert caught.value.response.status_code == 400


async def test_a_draining_server_says_goodbye_with_1012_after_the_answer(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with serving(scripted(tmp_path, [Token("a"), gate, Token("b"), Finish()])) as live:
        async with socket(live) as idle, socket(live) as busy:
            await say(busy, ask())
            await busy.recv()
            draining = asyncio.create_task(live.ragchat.drain())
            await idle.wait_closed()
            gate.set()
            assert (await answer(busy))[-1]["data"] is True
            await busy.wait_closed()
            await draining
    assert (idle.close_code, busy.close_code) == (1012, 1012)


async def test_who_sends_without_reading_is_cut_off_before_memory_grows(tmp_path: Path) -> None:
    """Also on the health socket, where a stranger could otherwise fill the memory."""
    async with serving(scripted(tmp_path, send_timeout=1)) as live:
        for path, headers in (("/v1/ws/health", {}), ("/v1/ws/chat", live.headers)):
            sent = await asyncio.to_thread(send_without_reading, live.url, path, headers)
            assert sent < 100 * 1024 * 1024


def send_without_reading(url: str, path: str, headers: dict[str, str]) -> int:
    """Send messages until the server has had enough; return how many bytes it took."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    lines = [
        f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        *(f"{name}: {value}" for name, value in headers.items()), "", "",
    ]  # fmt: skip
    size = 60_000
    message = b"\x81\xfe" + size.to_bytes(2) + bytes(4) + b"x" * size  # a masked text frame
    sent = 0
    with socketlib.create_connection((host, int(port)), timeout=2) as peer:
        peer.sendall("\r\n".join(lines).encode())
        peer.recv(1)
        with contextlib.suppress(OSError):
            for _ in range(200):  # small ones, until the answers to them fill what lies between us
                peer.sendall((b"\x81\x82" + bytes(4) + b"xx") * 300)
            while sent < 400 * 1024 * 1024:
                peer.sendall(message)
                sent += size
    return sent


async def test_sockets_that_leave_leave_nothing_behind(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path)) as live:
        before = len(asyncio.all_tasks())
        for _ in range(20):
            async with socket(live) as connection:
                await say(connection, {"type": "ping"})
                await connection.recv()
        async with asyncio.timeout(10):
            while len(asyncio.all_tasks()) > before:
                await asyncio.sleep(0)


async def test_pages_of_other_origins_may_not_connect_where_a_host_identifies_by_cookie(tmp_path: Path) -> None:
    async def identify(connection: Request | Websocket) -> Principal | None:
        return Principal(user="ann")

    ragchat = RagChat(load(data_dir=tmp_path, port=0, drain_timeout=0.1), identify=identify)
    async with serving(ragchat) as live:
        for origin in (None, live.url):
            async with connect(live.socket_url, origin=origin, proxy=None) as connection:  # type: ignore[arg-type]
                await say(connection, {"type": "ping"})
                assert decode(await connection.recv()) == {"type": "pong"}
        with pytest.raises(InvalidStatus) as caught:
            await connect(live.socket_url, origin="https://evil.example", proxy=None)  # type: ignore[arg-type]
    assert caught.value.response.status_code == 403
