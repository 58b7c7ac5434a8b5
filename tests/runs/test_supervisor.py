"""Runs belong to the application: each ends exactly once, whatever happens to its backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import pytest

from ragchat.backends.contract import Finish, Piece, Prompt
from ragchat.errors import (
    BackendError,
    ConflictError,
    DatabaseError,
    DrainingError,
    GoneError,
    UnavailableError,
)
from ragchat.events import Done, Error, Event, Header, Reference, RunStatus, Status, Token, Transcript, Usage
from ragchat.logs.memory import MemoryLog
from ragchat.runs.supervisor import Conclusion, Supervisor
from tests.fakes.backend import ScriptedBackend, Step, words

PROMPT = Prompt(question="?", turns=())
RUNNING = Status(RunStatus.RUNNING)


class ScriptedWork:
    """Does what a script says; ``saved`` is what was to be saved."""

    def __init__(self, script: Sequence[Step], failure: Exception | None = None) -> None:
        self.backend = ScriptedBackend(script)
        self.failure = failure
        self.refusal: Exception | None = None
        self.saved: list[Conclusion] = []

    async def begin(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def produce(self) -> AsyncGenerator[Piece, None]:
        return self.backend.answer(PROMPT)

    def cite(self, transcript: Transcript) -> Reference | None:
        return Reference(total=1, final=True)

    async def save(self, conclusion: Conclusion) -> None:
        if self.failure is not None:
            raise self.failure
        self.saved.append(conclusion)


class StubbornWork(ScriptedWork):
    """A backend that does not let go when it is cancelled."""

    def __init__(self, script: Sequence[Step]) -> None:
        super().__init__(script)
        self.let_go = asyncio.Event()

    async def produce(self) -> AsyncGenerator[Piece, None]:
        yield Token("a")
        while not self.let_go.is_set():
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                continue
        yield Finish()


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(retention=60)


@pytest.fixture
async def supervisor(log: MemoryLog) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(log, max_runs=2, run_timeout=30)
    yield supervisor
    await supervisor.drain(0)


async def events(log: MemoryLog, run_id: str) -> list[Event]:
    """All events of a run that has ended."""
    tail = await log.tail(run_id)
    batch = tail.read(0)
    assert batch is not None
    assert tail.ended
    return [event for _, event in batch.events]


async def started(log: MemoryLog, run_id: str, count: int) -> None:
    """Wait until a run has ``count`` events."""
    with (await log.tail(run_id)).reader(0, patience=30) as reader:
        while True:
            batch = await reader.next()
            assert batch is not None
            if batch.last >= count:
                return


async def test_a_run_is_written_saved_and_ended(log: MemoryLog, supervisor: Supervisor) -> None:
    usage = Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)
    work = ScriptedWork([Token("a"), Token("b"), Finish("length", usage)])
    await supervisor.start(Header(run_id="r1", message_id="m1", session_id="s1"), work)
    await supervisor.ended("r1")
    assert await events(log, "r1") == [
        RUNNING,
        Token("ab"),
        Reference(total=1, final=True),
        Done("length", usage, "m1", "s1"),
    ]
    [conclusion] = work.saved
    assert conclusion.transcript.text == "ab"
    assert conclusion.status == RunStatus.COMPLETED
    assert conclusion.last_seq == (await log.tail("r1")).last


async def test_the_message_is_saved_before_the_end_is_shown(log: MemoryLog, supervisor: Supervisor) -> None:
    class Watched(ScriptedWork):
        async def save(self, conclusion: Conclusion) -> None:
            self.ended_before = (await log.tail("r1")).ended

    work = Watched(words("a b"))
    await supervisor.start(Header(run_id="r1"), work)
    await supervisor.ended("r1")
    assert work.ended_before is False


async def test_a_cancelled_run_keeps_its_text_and_closes_its_backend(
    log: MemoryLog, supervisor: Supervisor
) -> None:
    work = ScriptedWork([Token("a"), asyncio.Event()])
    await supervisor.start(Header(run_id="r1"), work)
    await started(log, "r1", 2)
    assert supervisor.cancel("r1")
    assert supervisor.cancel("r1"), "again is harmless"
    await supervisor.ended("r1")
    assert work.backend.closed.is_set()
    assert await events(log, "r1") == [RUNNING, Token("a"), Reference(total=1, final=True), Done("cancelled")]
    assert work.saved[0].status == RunStatus.CANCELLED
    assert not supervisor.cancel("r1")


async def test_a_run_can_be_cancelled_before_it_has_said_anything(log: MemoryLog, supervisor: Supervisor) -> None:
    work = ScriptedWork([asyncio.Event(), *words("never said")])
    await supervisor.start(Header(run_id="r1"), work)
    supervisor.cancel("r1")
    await supervisor.ended("r1")
    assert (await events(log, "r1"))[-1] == Done("cancelled")
    assert work.saved[0].transcript.text == ""


async def test_a_backend_that_does_not_let_go_holds_up_nobody(log: MemoryLog, supervisor: Supervisor) -> None:
    work = StubbornWork([])
    await supervisor.start(Header(run_id="r1"), work)
    await started(log, "r1", 2)
    supervisor.cancel("r1")
    await supervisor.ended("r1")
    assert (await events(log, "r1"))[-1] == Done("cancelled")
    work.let_go.set()


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (
            BackendError("The model broke off.", retryable=True),
            Error(500, "The answer failed. The model broke off.", retryable=True),
        ),
        (
            KeyError("secret detail"),
            Error(500, "The answer failed. This is a defect; the server's log tells more about the run r1."),
        ),
    ],
)
async def test_a_failure_keeps_the_text_and_ends_the_run_once(
    log: MemoryLog, supervisor: Supervisor, failure: Exception, error: Error
) -> None:
    work = ScriptedWork([Token("a"), failure])
    await supervisor.start(Header(run_id="r1"), work)
    await supervisor.ended("r1")
    assert await events(log, "r1") == [RUNNING, Token("a"), error, Reference(total=1, final=True), Done("error")]
    assert work.saved[0].transcript.text == "a"
    assert work.saved[0].last_seq == (await log.tail("r1")).last


async def test_a_backend_that_stops_without_a_finish_has_failed(log: MemoryLog, supervisor: Supervisor) -> None:
    await supervisor.start(Header(run_id="r1"), ScriptedWork([Token("a")]))
    await supervisor.ended("r1")
    assert (await events(log, "r1"))[-1] == Done("error")


@pytest.mark.parametrize("failure", [DatabaseError("The disk is full."), ValueError("a defect")])
async def test_an_answer_that_cannot_be_saved_still_ends(
    log: MemoryLog, supervisor: Supervisor, failure: Exception
) -> None:
    await supervisor.start(Header(run_id="r1"), ScriptedWork(words("a"), failure))
    await supervisor.ended("r1")
    ended = await events(log, "r1")
    assert ended[-1] == Done("error")
    assert isinstance(ended[-3], Error)


async def test_an_answer_that_takes_too_long_is_ended_with_its_text(log: MemoryLog) -> None:
    supervisor = Supervisor(log, max_runs=1, run_timeout=0.05)
    await supervisor.start(Header(run_id="r1"), ScriptedWork([Token("a"), asyncio.Event()]))
    await supervisor.ended("r1")
    ended = await events(log, "r1")
    assert ended[1] == Token("a")
    assert isinstance(ended[2], Error)
    assert ended[-1] == Done("error")


async def test_no_more_runs_are_admitted_than_allowed(log: MemoryLog, supervisor: Supervisor) -> None:
    for run_id in ("r1", "r2"):
        await supervisor.start(Header(run_id=run_id), ScriptedWork([asyncio.Event()]))
    with pytest.raises(UnavailableError):
        await supervisor.start(Header(run_id="r3"), ScriptedWork(words("a")))
    supervisor.cancel("r1")
    await supervisor.ended("r1")
    await supervisor.start(Header(run_id="r3"), ScriptedWork(words("a")))


async def test_a_run_that_could_not_be_saved_leaves_nothing_behind(log: MemoryLog, supervisor: Supervisor) -> None:
    for _ in range(3):
        work = ScriptedWork(words("a"))
        work.refusal = DatabaseError("The database is away.")
        with pytest.raises(DatabaseError):
            await supervisor.start(Header(run_id="r1", session_id="s1"), work)
    assert supervisor.busy("s1") is None
    with pytest.raises(GoneError):
        await log.tail("r1")
    await supervisor.start(Header(run_id="r1", session_id="s1"), ScriptedWork(words("a")))


async def test_of_many_questions_at_once_into_a_session_one_is_taken(supervisor: Supervisor) -> None:
    starts = [
        supervisor.start(Header(run_id=f"r{number}", session_id="s1"), ScriptedWork([asyncio.Event()]))
        for number in range(5)
    ]
    refused = await asyncio.gather(*starts, return_exceptions=True)
    assert [type(error) for error in refused] == [type(None), *[ConflictError] * 4]


async def test_a_session_is_busy_while_its_run_goes_on(supervisor: Supervisor) -> None:
    await supervisor.start(Header(run_id="r1", session_id="s1"), ScriptedWork([asyncio.Event()]))
    assert supervisor.busy("s1") == "r1"
    assert supervisor.busy("s2") is None
    supervisor.cancel("r1")
    await supervisor.ended("r1")
    assert supervisor.busy("s1") is None


@pytest.mark.parametrize("piece", [Reference(total=1, final=True), Done("stop"), RUNNING, "text"])
async def test_what_a_backend_may_not_say_is_a_defect_that_ends_its_run(
    log: MemoryLog, supervisor: Supervisor, piece: Any
) -> None:
    await supervisor.start(Header(run_id="r1"), ScriptedWork([Token("a"), piece, Token("b"), Finish()]))
    await supervisor.ended("r1")
    ended = await events(log, "r1")
    assert (ended[1], ended[-1]) == (Token("a"), Done("error"))


async def test_what_a_stubborn_backend_says_after_it_was_stopped_is_not_part_of_the_answer(
    log: MemoryLog, supervisor: Supervisor
) -> None:
    class Talkative(StubbornWork):
        async def produce(self) -> AsyncGenerator[Piece, None]:
            async for piece in super().produce():
                yield Token("late") if isinstance(piece, Finish) else piece

        async def save(self, conclusion: Conclusion) -> None:
            self.let_go.set()
            await asyncio.sleep(0)
            await super().save(conclusion)

    work = Talkative([])
    await supervisor.start(Header(run_id="r1"), work)
    await started(log, "r1", 2)
    supervisor.cancel("r1")
    await supervisor.ended("r1")
    assert [event for event in await events(log, "r1") if isinstance(event, Token)] == [Token("a")]
    assert work.saved[0].last_seq == (await log.tail("r1")).last


async def test_draining_does_not_miss_a_run_that_is_just_beginning(log: MemoryLog, supervisor: Supervisor) -> None:
    gate, entered = asyncio.Event(), asyncio.Event()

    class Slow(ScriptedWork):
        async def begin(self) -> None:
            entered.set()
            await gate.wait()

    starting = asyncio.create_task(supervisor.start(Header(run_id="r1"), Slow([asyncio.Event()])))
    await entered.wait()
    draining = asyncio.create_task(supervisor.drain(0))
    await asyncio.sleep(0)
    gate.set()
    await starting
    await draining
    assert (await events(log, "r1"))[-1] == Done("error")


async def test_draining_lets_runs_finish(log: MemoryLog, supervisor: Supervisor) -> None:
    gate = asyncio.Event()
    await supervisor.start(Header(run_id="r1"), ScriptedWork([Token("a"), gate, Token("b"), Finish()]))
    draining = asyncio.create_task(supervisor.drain(30))
    await started(log, "r1", 2)
    gate.set()
    await draining
    assert (await events(log, "r1"))[-1] == Done("stop")


async def test_draining_ends_what_takes_too_long_with_its_text_saved(
    log: MemoryLog, supervisor: Supervisor
) -> None:
    work = ScriptedWork([Token("a"), asyncio.Event()])
    await supervisor.start(Header(run_id="r1"), work)
    await started(log, "r1", 2)
    await supervisor.drain(0)
    *_, error, _reference, done = await events(log, "r1")
    assert isinstance(error, Error)
    assert (error.code, error.retryable) == (503, True)
    assert done == Done("error")
    assert work.saved[0].transcript.text == "a"


async def test_nothing_starts_while_draining(supervisor: Supervisor) -> None:
    await supervisor.drain(0)
    with pytest.raises(DrainingError):
        await supervisor.start(Header(run_id="r1"), ScriptedWork(words("a")))
