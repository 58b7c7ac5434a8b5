"""SIGTERM while answers stream: clients are told, what was said is saved, and the process ends with 0."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from ragchat.sse import MessageReader
from tests.fakes.model_server import Act, ModelServer, delta, sse
from tests.live import ask, decode
from tests.service import Service, serving

ROUTE = "/v1/conversation/completion"


async def finish(service: Service) -> int:
    return await asyncio.to_thread(service.process.wait, 20)


def saved(folder: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(folder / ".ragchat" / "ragchat.db")) as database:
        return [row[0] for row in database.execute("SELECT content FROM ragchat_message WHERE role = 'assistant'")]


async def test_everybody_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    """An idle socket, a socket and a stream in the middle of an answer, and a client that never reads."""
    async with ModelServer() as model:
        model.only(sse(delta("half an answer")), Act.HANG)
        settings = {
            "RAGCHAT_OPENAI_BASE_URL": model.base_url, "RAGCHAT_OPENAI_MODEL": "m", "RAGCHAT_DRAIN_TIMEOUT": "0.3",
        }  # fmt: skip
        with serving(tmp_path, **settings) as service:
            headers = {"Authorization": f"Bearer {service.token}"}
            url = service.url.replace("http://", "ws://") + "/v1/ws/chat"
            async with (
                connect(url, additional_headers=headers, proxy=None) as idle,
                connect(url, additional_headers=headers, proxy=None) as busy,
                httpx.AsyncClient(base_url=service.url, headers=headers, timeout=20, trust_env=False) as http,
                http.stream("POST", ROUTE, json=ask()) as response,
            ):
                reader, chunks = MessageReader(), response.aiter_raw()
                while not list(reader.feed(await anext(chunks))):
                    pass
                await busy.send(json.dumps(ask()))
                await busy.recv()
                _, never_reads = await never_reading(service, headers)
                await model.received(3)
                service.process.send_signal(signal.SIGTERM)

                rest = [decode(message.data) async for chunk in chunks for message in reader.feed(chunk)]
                assert [frame["code"] for frame in rest] == [503, 0, 0]
                assert rest[-1]["data"] is True
                assert decode(await busy.recv())["code"] == 503
                await asyncio.gather(idle.wait_closed(), busy.wait_closed())
                assert (idle.close_code, busy.close_code) == (1012, 1012)
            assert await finish(service) == 0
            never_reads.close()
    assert saved(tmp_path) == ["half an answer"] * 3


async def never_reading(
    service: Service, headers: dict[str, str]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that asks and then reads nothing."""
    host, _, port = service.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1)
    body = json.dumps(ask())
    lines = [
        f"POST {ROUTE} HTTP/1.1", f"Host: {host}", f"Authorization: {headers['Authorization']}",
        f"Content-Length: {len(body)}", "", body,
    ]  # fmt: skip
    writer.write("\r\n".join(lines).encode())
    await writer.drain()
    return reader, writer


async def test_a_killed_service_comes_back_and_says_what_was_lost(tmp_path: Path) -> None:
    async with ModelServer() as model:
        model.only(sse(delta("half an answer")), Act.HANG)
        settings = {"RAGCHAT_OPENAI_BASE_URL": model.base_url, "RAGCHAT_OPENAI_MODEL": "m"}
        with serving(tmp_path, **settings) as service:
            token = service.token
            async with (
                httpx.AsyncClient(base_url=service.url, timeout=20, trust_env=False) as http,
                http.stream("GET", ROUTE, params={**ask(), "token": token}) as response,
            ):
                reader, chunks = MessageReader(), response.aiter_raw()
                while not (messages := list(reader.feed(await anext(chunks)))):
                    pass
                session_id = decode(messages[0].data)["data"]["session_id"]
                service.process.kill()
                assert await finish(service) == -signal.SIGKILL
        model.only(sse(delta("a whole answer"), "[DONE]"))
        with serving(tmp_path, **settings) as service:
            async with httpx.AsyncClient(base_url=service.url, timeout=20, trust_env=False) as http:
                http.headers["Authorization"] = f"Bearer {token}"
                gone = await http.get(ROUTE, headers={"Last-Event-ID": reader.last_event_id})
                run = await http.post(f"/api/v1/runs/{reader.last_event_id.partition(':')[0]}/cancel")
                again = await http.post(ROUTE, json=ask(session_id=session_id, stream=False))
            assert service.stop() == 0
    assert gone.status_code == 410
    assert (run.json()["status"], run.json()["error"]["retryable"]) == ("failed", True)
    assert again.json()["data"]["answer"] == "a whole answer"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_service_ends_with_0(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path) as service:
        service.process.send_signal(number)
        assert await finish(service) == 0


async def test_answers_that_finish_in_time_are_not_interrupted(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with ModelServer() as model:
        model.only(sse(delta("the whole ")), gate, sse(delta("answer"), "[DONE]"))
        settings = {
            "RAGCHAT_OPENAI_BASE_URL": model.base_url, "RAGCHAT_OPENAI_MODEL": "m", "RAGCHAT_DRAIN_TIMEOUT": "15",
        }  # fmt: skip
        with serving(tmp_path, **settings) as service:
            headers = {"Authorization": f"Bearer {service.token}"}
            async with (
                httpx.AsyncClient(base_url=service.url, headers=headers, timeout=20, trust_env=False) as http,
                http.stream("POST", ROUTE, json=ask()) as response,
            ):
                reader, chunks = MessageReader(), response.aiter_raw()
                while not list(reader.feed(await anext(chunks))):
                    pass
                service.process.send_signal(signal.SIGTERM)
                gate.set()
                rest = [decode(message.data) async for chunk in chunks for message in reader.feed(chunk)]
                assert [frame["code"] for frame in rest] == [0] * len(rest)
            assert await finish(service) == 0
    assert saved(tmp_path) == ["the whole answer"]


async def test_a_second_signal_ends_at_once_whatever_the_model_does(tmp_path: Path) -> None:
    async with ModelServer() as model:
        model.only(sse(delta("half an answer")), Act.HANG)
        settings = {"RAGCHAT_OPENAI_BASE_URL": model.base_url, "RAGCHAT_OPENAI_MODEL": "m"}
        with serving(tmp_path, **settings, RAGCHAT_DRAIN_TIMEOUT="600") as service:
            async with asking(service) as chunks:
                service.process.send_signal(signal.SIGTERM)
                await refused(service)
                service.process.send_signal(signal.SIGTERM)
                assert await finish(service) == 0
                with contextlib.suppress(httpx.TransportError):
                    async for _ in chunks:
                        pass
    assert saved(tmp_path) == ["half an answer"]


async def test_a_database_that_somebody_else_holds_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    async with ModelServer() as model:
        model.only(sse(delta("half an answer")), Act.HANG)
        settings = {"RAGCHAT_OPENAI_BASE_URL": model.base_url, "RAGCHAT_OPENAI_MODEL": "m"}
        with serving(tmp_path, **settings, RAGCHAT_DRAIN_TIMEOUT="0.1") as service:
            async with asking(service) as chunks:
                file = tmp_path / ".ragchat" / "ragchat.db"
                with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
                    other.execute("BEGIN IMMEDIATE")
                    service.process.send_signal(signal.SIGTERM)
                    assert await finish(service) == 0
                with contextlib.suppress(httpx.TransportError):
                    async for _ in chunks:
                        pass


@contextlib.asynccontextmanager
async def asking(service: Service) -> AsyncIterator[AsyncIterator[bytes]]:
    """A stream whose answer has begun."""
    headers = {"Authorization": f"Bearer {service.token}"}
    async with (
        httpx.AsyncClient(base_url=service.url, headers=headers, timeout=20, trust_env=False) as http,
        http.stream("POST", ROUTE, json=ask()) as response,
    ):
        reader, chunks = MessageReader(), response.aiter_raw()
        while not list(reader.feed(await anext(chunks))):
            pass
        yield chunks


async def refused(service: Service) -> None:
    """Wait until the service says that it is going away."""
    async with httpx.AsyncClient(base_url=service.url, timeout=20, trust_env=False) as http:
        while (await http.get("/readyz")).status_code != 503:
            pass
