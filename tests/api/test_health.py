"""Whether the service lives and can work."""

from __future__ import annotations

import asyncio
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from websockets.asyncio.client import connect

from ragchat.backends.contract import Finish
from ragchat.events import Token
from tests.live import ask, decode, scripted, serving


async def test_a_healthy_service_says_so_to_anybody(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path)) as live, live.http() as http:
        http.headers.pop("Authorization")
        assert (await http.get("/livez")).json() == {"status": "ok", "version": version("ragchat")}
        assert (await http.get("/readyz")).json() == {"status": "ok", "database": "ok"}


async def test_a_service_without_its_database_lives_but_is_not_ready(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path)) as live, live.http() as http:
        await live.ragchat.database.close()
        ready = await http.get("/readyz")
        assert (await http.get("/livez")).status_code == 200
        assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
        assert "Retry-After" in ready.headers
        await live.ragchat.database.open()
        assert (await http.get("/readyz")).status_code == 200


async def test_a_service_that_goes_away_is_not_ready_and_starts_nothing(tmp_path: Path) -> None:
    gate = asyncio.Event()
    ragchat = scripted(tmp_path, [Token("a"), gate, Finish()], drain_timeout=30)
    async with serving(ragchat) as live, live.http() as http:
        async with http.stream("POST", "/v1/conversation/completion", json=ask()) as response:
            await anext(response.aiter_raw())
            draining = asyncio.create_task(ragchat.drain())
            await asyncio.sleep(0)
            assert (await http.get("/readyz")).json() == {"status": "draining"}
            refused = await http.post("/v1/conversation/completion", json=ask())
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            gate.set()
            await draining


async def test_the_health_socket_echoes_with_the_time(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path)) as live:
        url = live.url.replace("http://", "ws://") + "/v1/ws/health"
        async with connect(url, proxy=None) as socket:
            hello = decode(await socket.recv())
            assert (hello["status"], hello["version"]) == ("healthy", version("ragchat"))
            await socket.send("你好")
            echo = decode(await socket.recv())
            assert echo["echo"] == "你好"
            assert datetime.fromisoformat(echo["timestamp"]).utcoffset() is not None
