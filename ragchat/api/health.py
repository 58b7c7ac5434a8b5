"""Whether the service lives and can work; nobody has to sign in to ask."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

import msgspec
from quart import Response

from ragchat.errors import DatabaseError
from ragchat.store.database import Database

VERSION = version("ragchat")


class Health:
    """``/livez`` and ``/readyz``."""

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


def _answer(status: int, body: dict[str, str]) -> Response:
    response = Response(msgspec.json.encode(body), status=status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    if status == 503:
        response.headers["Retry-After"] = "2"
    return response
