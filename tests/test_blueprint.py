"""The blueprint in an application that has a life of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from quart import Quart, Request, Websocket, request
from quart_schema import QuartSchema, validate_request, validate_response
from tortoise import Tortoise
from websockets.asyncio.client import connect

from ragchat import Principal, RagChat
from ragchat.backends.contract import Finish, Piece, Prompt
from ragchat.errors import ConfigurationError
from ragchat.events import Token
from ragchat.runs.chat import Ask
from ragchat.settings import load
from ragchat.sse import MessageReader
from ragchat.store.models import Message, Session
from tests.fakes.backend import FixedRetriever, ScriptedBackend, words
from tests.fakes.host_models import Note
from tests.live import Live, ask, decode, scripted, serving

PREFIX = "/assistant"


@dataclass
class Payload:
    note_text: str


def host(ragchat: RagChat, *, tortoise: str | None, schema: bool) -> Quart:
    """An application that mounts ragchat under a prefix, with or without a Tortoise and a QuartSchema."""
    app = Quart("host")
    if tortoise is not None:

        @app.before_serving
        async def open_tortoise() -> None:
            await Tortoise.init(
                db_url=tortoise,
                modules={"models": ["tests.fakes.host_models"]},
                timezone="Asia/Shanghai",
                _enable_global_fallback=True,
            )
            await Tortoise.generate_schemas()

        @app.after_serving
        async def close_tortoise() -> None:
            await Tortoise.close_connections()

        @app.post("/notes")
        async def write_note() -> list[str]:
            await Note.create(text=(await request.get_data()).decode())
            return [note.text for note in await Note.all().order_by("id")]

    if schema:
        QuartSchema(app, convert_casing=True)

        @app.post("/echo")
        @validate_request(Payload)
        @validate_response(Payload)
        async def echo(data: Payload) -> Payload:
            return data

    app.register_blueprint(ragchat.blueprint, url_prefix=PREFIX)
    return app


@pytest.mark.parametrize("has_schema", [False, True], ids=["no schema", "own schema"])
@pytest.mark.parametrize("has_tortoise", [False, True], ids=["no tortoise", "own tortoise"])
async def test_every_host_can_mount_it_under_a_prefix(
    tmp_path: Path, database_url: str, has_tortoise: bool, has_schema: bool
) -> None:
    own = f"sqlite://{tmp_path / 'host.db'}" if has_tortoise else None
    settings = load(data_dir=tmp_path, database_url=database_url, port=0, drain_timeout=0.1)
    ragchat = RagChat(settings, backend=ScriptedBackend(words("一 two [ID:0]")), retriever=FixedRetriever())
    async with serving(ragchat, host(ragchat, tortoise=own, schema=has_schema)) as live, live.http() as http:
        for number in range(3):
            if has_tortoise:
                notes = await http.post("/notes", content=f"note {number}")
                assert notes.json() == [f"note {earlier}" for earlier in range(number + 1)]
            if has_schema:
                assert (await http.post("/echo", json={"noteText": "x"})).json() == {"noteText": "x"}
            assert await answer_over_socket(live) == "一 two [ID:0]"
            whole = await http.post(f"{PREFIX}/v1/conversation/completion", json=ask(stream=False))
            assert whole.json()["data"]["answer"] == "一 two [ID:0]"
            assert set(whole.json()["data"]) == {"answer", "reference", "id", "session_id"}
        assert (await http.get(f"{PREFIX}/readyz")).json() == {"status": "ok", "database": "ok"}
        assert await live.runs() == 6


async def answer_over_socket(live: Live) -> str:
    url = live.url.replace("http://", "ws://") + f"{PREFIX}/v1/ws/chat"
    answer = ""
    async with connect(url, additional_headers=live.headers, proxy=None) as socket:
        await socket.send('{"chat_id":"default","question":"Why?"}')
        while (frame := decode(await socket.recv()))["data"] is not True:
            answer += frame["data"]["answer"]
    return answer


async def test_a_host_decides_who_its_users_are(tmp_path: Path) -> None:
    async def identify(connection: Request | Websocket) -> Principal | None:
        user = connection.headers.get("X-User")
        return Principal(user=user) if user else None

    ragchat = RagChat(
        load(data_dir=tmp_path, port=0, drain_timeout=0.1),
        identify=identify, backend=ScriptedBackend(words("yes")), retriever=FixedRetriever(),
    )  # fmt: skip
    async with serving(ragchat) as live, httpx.AsyncClient(base_url=live.url, trust_env=False) as http:
        route = "/v1/conversation/completion"
        assert (await http.post(route, json=ask())).status_code == 401
        answer = await http.post(route, json=ask(), headers={"X-User": "ann"})
        frames = [decode(message.data) for message in MessageReader().feed(answer.content)]
        session_id = frames[0]["data"]["session_id"]
        session = await ragchat.database.run(lambda: Session.get(id=session_id))
        assert session.user == "ann"
        follow_up = ask(session_id=session_id)
        assert (await http.post(route, json=follow_up, headers={"X-User": "bob"})).status_code == 404


async def test_closing_ends_what_goes_on_with_its_text_saved_and_may_be_repeated(tmp_path: Path) -> None:
    ragchat = scripted(tmp_path, [Token("half"), asyncio.Event()])
    await ragchat.open()
    header = await ragchat.runs.ask(Principal(), Ask(chat_id="default", question="?"))
    with (await ragchat.log.tail(header.run_id)).reader(1, patience=30) as reader:
        await reader.next()
    await ragchat.close()
    await ragchat.close()
    await ragchat.database.open()
    message = await ragchat.database.run(lambda: Message.get(id=header.message_id))
    await ragchat.database.close()
    assert message.content == "half"


async def test_a_database_that_cannot_be_used_stops_the_host_with_one_clear_error(tmp_path: Path) -> None:
    ragchat = RagChat(load(data_dir=tmp_path, database_url="postgres://127.0.0.1:1/name"))
    app = Quart("host")
    app.register_blueprint(ragchat.blueprint)
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1:1/name"):
        await app.startup()
    await ragchat.close()


async def test_unknown_paths_and_methods_have_an_envelope_too(tmp_path: Path) -> None:
    async with serving(scripted(tmp_path)) as live, live.http() as http:
        for method, path, code in (
            ("GET", "/static/nothing.js", 404),
            ("GET", "/nothing", 404),
            ("GET", "/api/v1/runs/r1/cancel", 405),
            ("POST", "/api/v1/runs/r1/cancel", 404),
        ):
            answer = await http.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (code, code), path


async def test_a_defect_is_logged_and_not_shown(tmp_path: Path) -> None:
    async def identify(connection: Request | Websocket) -> Principal | None:
        raise KeyError("a secret detail")

    ragchat = RagChat(load(data_dir=tmp_path, port=0, drain_timeout=0.1), identify=identify)
    async with serving(ragchat) as live, live.http() as http:
        answer = await http.post("/v1/conversation/completion", json=ask())
        assert answer.status_code == 500
        assert "secret detail" not in answer.text
        async with connect(live.socket_url, proxy=None) as socket:
            frame = decode(await socket.recv())
            await socket.wait_closed()
        assert frame["code"] == 500
        assert "secret detail" not in frame["message"]
        assert socket.close_code == 1011


async def test_a_host_without_log_settings_shows_no_local_variables(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Leaky(ScriptedBackend):
        async def answer(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
            api_key = "canary-7f3a"
            raise RuntimeError(f"no answer with a key of {len(api_key)} characters")
            yield Finish()

    ragchat = scripted(tmp_path, Leaky([]))
    async with serving(ragchat) as live, live.http() as http:
        await http.post("/v1/conversation/completion", json=ask())
    printed = capfd.readouterr()
    assert "canary-7f3a" not in printed.out + printed.err
