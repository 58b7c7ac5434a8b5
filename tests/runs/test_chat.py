"""From a question to a run: what each setting of a chat does, and what a question may narrow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ragchat import Principal, RagChat, stream
from ragchat.auth.identity import DEFAULT_TENANT
from ragchat.backends.contract import Finish
from ragchat.errors import BackendError, ConflictError, DatabaseError, DrainingError, NotFoundError
from ragchat.events import DocumentCount, Header, Token, Transcript, Usage
from ragchat.runs.chat import Ask
from ragchat.settings import load
from ragchat.store.models import Chat, Message, Run, Session
from tests.fakes.backend import FixedRetriever, ScriptedBackend, passage, words

ANN = Principal(user="ann")


class Service:
    """A service without a server: a question goes in, what it became comes out."""

    def __init__(self, folder: Path, url: str) -> None:
        self.backend = ScriptedBackend(words("It is so [ID:1]."))
        self.retriever = FixedRetriever([passage(0), passage(1)])
        self.ragchat = RagChat(
            load(data_dir=folder, database_url=url, drain_timeout=0.1),
            backend=self.backend, retriever=self.retriever,
        )  # fmt: skip

    async def ask(self, question: str = "Is it?", principal: Principal = ANN, **fields: Any) -> Header:
        return await self.ragchat.runs.ask(
            principal, Ask(**{"chat_id": "default", "question": question, **fields})
        )

    async def answer(self, question: str = "Is it?", **fields: Any) -> tuple[Header, Transcript]:
        header = await self.ask(question, **fields)
        transcript = await stream.collect(self.ragchat.log, header.run_id)
        await self.ragchat.supervisor.ended(header.run_id)
        return header, transcript

    async def change_chat(self, **columns: Any) -> None:
        await self.ragchat.database.run(lambda: Chat.filter(id="default").update(**columns))

    async def messages(self, session_id: str) -> list[tuple[str, str]]:
        rows = await self.ragchat.database.run(lambda: Message.filter(session_id=session_id).order_by("position"))
        return [(row.role, row.content) for row in rows]


@pytest.fixture
async def service(tmp_path: Path, database_url: str) -> AsyncIterator[Service]:
    service = Service(tmp_path, database_url)
    await service.ragchat.open()
    yield service
    await service.ragchat.close()


async def test_run_message_and_reference_are_kept_with_their_tenant(service: Service) -> None:
    service.backend.script = [Token("It is so [ID:1]."), Finish("stop", Usage(total_tokens=7))]
    header, transcript = await service.answer()
    database = service.ragchat.database
    run = await database.run(lambda: Run.get(id=header.run_id))
    message = await database.run(lambda: Message.get(id=header.message_id))
    session = await database.run(lambda: Session.get(id=header.session_id))
    assert (run.status, run.finish_reason, run.user, run.usage["total_tokens"]) == ("completed", "stop", "ann", 7)
    assert run.finished_at is not None
    assert run.last_seq == (await service.ragchat.log.tail(header.run_id)).last
    assert message.content == transcript.text == "It is so [ID:1]."
    assert [chunk["id"] for chunk in message.reference["chunks"]] == ["chunk0", "chunk1"]
    assert (session.name, session.user) == ("Is it?", "ann")
    assert {run.tenant, message.tenant, session.tenant} == {DEFAULT_TENANT}


async def test_the_final_reference_counts_what_was_cited(service: Service) -> None:
    _, transcript = await service.answer()
    assert transcript.reference is not None
    assert transcript.reference.total == 2
    assert transcript.reference.doc_aggs == (DocumentCount(doc_name="1.md", doc_id="doc1", count=1),)


async def test_the_prologue_is_the_first_message_of_a_new_session_only(service: Service) -> None:
    await service.change_chat(prologue="你好!")
    header, _ = await service.answer("One?")
    await service.answer("Two?", session_id=header.session_id)
    assert await service.messages(header.session_id) == [
        ("assistant", "你好!"),
        ("user", "One?"),
        ("assistant", "It is so [ID:1]."),
        ("user", "Two?"),
        ("assistant", "It is so [ID:1]."),
    ]


async def test_when_nothing_is_found_the_empty_response_is_said_word_for_word_without_the_model(
    service: Service,
) -> None:
    await service.change_chat(empty_response="Nothing {knowledge} here.")
    service.retriever.passages = []
    _, transcript = await service.answer()
    assert transcript.text == "Nothing {knowledge} here."
    assert service.backend.prompts == []


async def test_without_an_empty_response_the_model_is_asked_even_when_nothing_is_found(service: Service) -> None:
    service.retriever.passages = []
    await service.answer()
    assert len(service.backend.prompts) == 1


async def test_the_system_prompt_gets_the_passages_and_no_other_brace_means_anything(service: Service) -> None:
    await service.change_chat(system="Use {this}: {knowledge}. Say {question}!")
    await service.answer("What is {system}?")
    system, question = service.backend.prompts[0].turns
    assert system.role == "system"
    assert system.content.startswith("Use {this}: [ID:0]")
    assert system.content.endswith("Say {question}!")
    assert (question.role, question.content) == ("user", "What is {system}?")


async def test_top_n_and_the_threshold_of_the_chat_reach_the_retriever(service: Service) -> None:
    await service.change_chat(top_n=3, similarity_threshold=0.7, dataset_ids=["a", "b"])
    await service.answer(doc_ids=("d1",))
    query = service.retriever.queries[0]
    assert (query.limit, query.threshold, query.datasets, query.documents) == (3, 0.7, ("a", "b"), ("d1",))


async def test_a_question_narrows_what_the_chat_may_read_and_never_widens_it(service: Service) -> None:
    await service.change_chat(dataset_ids=["a", "b"])
    await service.answer(kb_ids=("b", "somebody else's"))
    assert service.retriever.queries[0].datasets == ("b",)
    with pytest.raises(NotFoundError, match="None of the `kb_ids`"):
        await service.ask(kb_ids=("somebody else's",))


async def test_a_follow_up_knows_what_was_asked_before(service: Service) -> None:
    header, _ = await service.answer("Is it warm?")
    await service.answer("And in winter?", session_id=header.session_id)
    assert service.retriever.queries[1].earlier == ("Is it warm?",)
    assert [turn.content for turn in service.backend.prompts[1].turns[1:]] == [
        "Is it warm?",
        "It is so [ID:1].",
        "And in winter?",
    ]


async def test_a_model_sees_only_the_newest_messages(tmp_path: Path, service: Service) -> None:
    header, _ = await service.answer("first")
    for number in range(8):
        await service.answer(f"question {number}", session_id=header.session_id)
    turns = service.backend.prompts[-1].turns
    assert len(turns) == 1 + service.ragchat.settings.history_messages + 1
    assert "first" not in [turn.content for turn in turns]


async def test_a_busy_session_takes_no_second_question(service: Service) -> None:
    gate = asyncio.Event()
    service.backend.script = [gate, Finish()]
    header = await service.ask()
    with pytest.raises(ConflictError):
        await service.ask(session_id=header.session_id)
    gate.set()
    await service.ragchat.supervisor.ended(header.run_id)
    await service.answer(session_id=header.session_id)


async def test_a_session_belongs_to_its_chat_and_its_user(service: Service) -> None:
    header, _ = await service.answer()
    await service.ragchat.database.run(lambda: Chat.create(id="other", tenant=DEFAULT_TENANT, name="other"))
    await service.ragchat.database.run(lambda: Chat.create(id="foreign", tenant="elsewhere", name="foreign"))
    for fields in (
        {"chat_id": "other", "session_id": header.session_id},
        {"chat_id": "foreign"},
        {"session_id": header.session_id, "principal": Principal(user="bob")},
        {"session_id": header.session_id, "principal": Principal(tenant="elsewhere", user="ann")},
    ):
        with pytest.raises(NotFoundError):
            await service.ask(**fields)  # type: ignore[arg-type]
    await service.answer(session_id=header.session_id)


async def test_the_tenant_itself_sees_the_sessions_of_its_users(service: Service) -> None:
    header, _ = await service.answer()
    await service.answer(session_id=header.session_id, principal=Principal())


async def test_a_client_that_leaves_while_it_asks_leaves_all_or_nothing(service: Service) -> None:
    for turns in range(12):
        asking = asyncio.create_task(service.ask(f"question {turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
    await service.ragchat.database.ping()
    await service.ragchat.supervisor.drain(10)
    runs = await service.ragchat.database.run(Run.all)
    answers = await service.ragchat.database.run(lambda: Message.filter(role="assistant").count())
    assert {run.status for run in runs} <= {"completed"}
    assert answers == len(runs)


async def test_a_question_that_is_refused_is_not_saved(service: Service) -> None:
    await service.ragchat.supervisor.drain(0)
    with pytest.raises(DrainingError):
        await service.ask()
    assert await service.ragchat.database.run(lambda: Run.all().count()) == 0


async def test_an_answer_is_saved_once_the_database_is_back(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    service.backend.script = [Token("a"), gate, Finish()]
    header = await service.ask()
    transaction, failures = service.ragchat.database.transaction, iter(range(2))

    async def restarting(operation: Any) -> Any:
        if next(failures, None) is not None:
            raise DatabaseError("The database is being restarted.")
        return await transaction(operation)

    monkeypatch.setattr(service.ragchat.database, "transaction", restarting)
    gate.set()
    transcript = await stream.collect(service.ragchat.log, header.run_id)
    assert (transcript.error, transcript.text) == (None, "a")
    assert (await service.messages(header.session_id))[-1] == ("assistant", "a")


async def test_an_answer_whose_commit_was_acknowledged_to_nobody_is_saved_once(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction, lost = service.ragchat.database.transaction, iter([False, True])

    async def replying(operation: Any) -> Any:
        result = await transaction(operation)
        if next(lost, False):
            raise DatabaseError("The connection was lost.")
        return result

    monkeypatch.setattr(service.ragchat.database, "transaction", replying)
    header, transcript = await service.answer()
    assert transcript.error is None
    assert len(await service.messages(header.session_id)) == 2


async def test_a_run_can_be_stopped_while_the_database_is_away(service: Service) -> None:
    service.backend.script = [Token("half"), asyncio.Event()]
    header = await service.ask()
    await service.ragchat.database.close()
    await service.ragchat.runs.stop(ANN, header.run_id)
    async with asyncio.timeout(1):
        await service.backend.closed.wait()
    await service.ragchat.database.open()
    await service.ragchat.supervisor.ended(header.run_id)
    assert (await service.messages(header.session_id))[-1] == ("assistant", "half")


async def test_what_no_database_takes_is_neither_streamed_nor_lost(service: Service) -> None:
    service.retriever.passages = [passage(0, "a\0b")]
    service.backend.script = [Token("x\0y"), BackendError("it said \0 \ud83c")]
    header, transcript = await service.answer()
    assert transcript.text == "xy"
    assert (await service.messages(header.session_id))[-1] == ("assistant", "xy")
    for unknown in ({"chat_id": "\0"}, {"session_id": "\0"}, {"session_id": "\ud83c"}):
        with pytest.raises(NotFoundError):
            await service.ask(**unknown)


async def test_a_model_is_not_shown_answers_that_say_nothing(service: Service) -> None:
    service.backend.script = [BackendError("broken")]
    header, _ = await service.answer("first")
    service.backend.script = words("fine")
    await service.answer("second", session_id=header.session_id)
    assert [turn.content for turn in service.backend.prompts[1].turns[1:]] == ["first", "second"]


async def test_who_asks_is_an_opaque_name_for_the_model(service: Service) -> None:
    for principal in (ANN, ANN, Principal(user="bob"), Principal(tenant="default", user="")):
        await service.answer(principal=principal)
    names = [prompt.user for prompt in service.backend.prompts]
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert not any("ann" in name or "default" in name for name in names)


async def test_cancelling_a_run_tells_how_it_ended_and_is_harmless_afterwards(service: Service) -> None:
    service.backend.script = [Token("half"), asyncio.Event()]
    header = await service.ask()
    run = await service.ragchat.runs.cancel(ANN, header.run_id)
    again = await service.ragchat.runs.cancel(ANN, header.run_id)
    assert run.status == again.status == "cancelled"
    with pytest.raises(NotFoundError):
        await service.ragchat.runs.cancel(Principal(user="bob"), header.run_id)
