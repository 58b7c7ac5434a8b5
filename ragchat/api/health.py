"""Whether the service lives and can work; nobody has to sign in to ask."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from importlib.metadata import version

import msgspec
from quart import Response, websocket

from ragchat.errors import DatabaseError
from ragchat.store.database import Database

VERSION = version("ragchat")


class Health:
    """``/livez``, ``/readyz`` and the health socket."""

    def __init__(self, database: Database, draining: asyncio.Event) -> None:
        self._database = database
        self._draining = draining

    async def live(self) -> Response:
        """200 as long as the process answers at all: a supervisor restarts it otherwise."""
        return _answer(200, {"status": "ok", "version": VERSION})

    async def ready(self) -> Response:
        """200 when questions can be answered, 503 with the reason when not: a balancer looks elsewhere."""
        if self._draining.is_set():
            return _answer(503, {"status": "draining"})
        try:
            await self._database.ping()
        except DatabaseError as error:
            return _answer(503, {"status": "unavailable", "database": str(error)})
        return _answer(200, {"status": "ok", "database": "ok"})

    async def socket(self) -> None:
        """Say that all is well, then answer each text with itself and the time."""
        await websocket.accept()
        await websocket.send(_json({"status": "healthy", "message": "ragchat is listening", "version": VERSION}))
        while True:
            text = await websocket.receive()
            if isinstance(text, str):
                await websocket.send(_json({"echo": text, "timestamp": datetime.now(UTC).isoformat()}))


def _answer(status: int, body: dict[str, str]) -> Response:
    response = Response(msgspec.json.encode(body), status=status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    if status == 503:
        response.headers["Retry-After"] = "2"
    return response


def _json(value: dict[str, str]) -> str:
    return msgspec.json.encode(value).decode()
