"""ragchat on a live server in this process, with a scripted backend where a model would be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
from quart import Quart

from ragchat import server
from ragchat.app import create_app
from ragchat.auth.tokens import create_token
from ragchat.blueprint import RagChat
from ragchat.settings import load
from ragchat.store.models import Chat, Message, Run, Session
from tests.fakes.backend import FixedRetriever, Script, ScriptedBackend, Step, passage, words

PASSAGES = (passage(0, "The first passage."), passage(1, "第二段。"))


class Live:
    """A running service: where it is, how to get in, and what it has saved."""

    def __init__(self, ragchat: RagChat, url: str, token: str, stop: server.Stop) -> None:
        self.ragchat = ragchat
        self.url = url
        self.token = token
        self.stop = stop
        self.headers = {"Authorization": f"Bearer {token}"}
        self.socket_url = url.replace("http://", "ws://") + "/v1/ws/chat"

    def http(self) -> httpx.AsyncClient:
        """A client that is signed in."""
        return httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=20, trust_env=False)

    async def run(self, run_id: str) -> Run:
        return await self.ragchat.database.run(lambda: Run.get(id=run_id))

    async def runs(self) -> int:
        return await self.ragchat.database.run(lambda: Run.all().count())

    async def sessions(self) -> int:
        return await self.ragchat.database.run(lambda: Session.all().count())

    async def messages(self, session_id: str) -> list[tuple[str, str]]:
        """Role and content of a session's messages."""
        rows = await self.ragchat.database.run(lambda: Message.filter(session_id=session_id).order_by("position"))
        return [(row.role, row.content) for row in rows]

    async def update_chat(self, **columns: Any) -> None:
        await self.ragchat.database.run(lambda: Chat.filter(id="default").update(**columns))


def scripted(folder: Path, backend: ScriptedBackend | Script | Sequence[Step] = (), **settings: Any) -> RagChat:
    """A service with a database in ``folder`` and a backend that follows a script."""
    defaults = {"data_dir": folder, "port": 0, "drain_timeout": 0.1}
    return RagChat(
        load(**{**defaults, **settings}),
        backend=backend
        if isinstance(backend, ScriptedBackend)
        else ScriptedBackend(backend or words("one two three")),
        retriever=FixedRetriever(PASSAGES),
    )


@contextlib.asynccontextmanager
async def serving(ragchat: RagChat, app: Quart | None = None) -> AsyncIterator[Live]:
    """Serve ragchat, alone or as a part of ``app``."""
    stop, address = server.Stop(), asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        server.serve(
            app or create_app(ragchat), ragchat.settings, stop=stop, drain=ragchat.drain, ready=address.set_result
        )
    )
    try:
        await asyncio.wait({serving, address}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
        yield Live(ragchat, address.result(), await create_token(ragchat.database, "test"), stop)
    finally:
        stop()
        await serving


def decode(frame: str | bytes) -> dict[str, Any]:
    """A frame as a dictionary."""
    value: dict[str, Any] = msgspec.json.decode(frame)
    return value


def ask(question: str = "What?", **fields: Any) -> dict[str, Any]:
    """A question to the default chat."""
    return {"chat_id": "default", "question": question, **fields}
