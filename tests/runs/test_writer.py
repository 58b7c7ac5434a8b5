"""Writing one run's events: in order, joined, and noticing when somebody else writes too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from ragchat.errors import FencedError
from ragchat.events import Done, Event, Header, OutOfOrderError, RunStatus, Status, Token
from ragchat.logs.memory import MemoryLog
from ragchat.runs.writer import Writer

HEADER = Header(run_id="r1")
RUNNING = Status(RunStatus.RUNNING)


class SlowLog(MemoryLog):
    """Appends only when it is let; ``appends`` are the sizes of what it was given."""

    def __init__(self) -> None:
        super().__init__(retention=60)
        self.let = asyncio.Semaphore(0)
        self.appends: list[int] = []

    async def append(self, run_id: str, events: Sequence[Event], *, after: int) -> int:
        await self.let.acquire()
        self.appends.append(len(events))
        return await super().append(run_id, events, after=after)


@pytest.fixture
async def log() -> SlowLog:
    log = SlowLog()
    await log.create(HEADER)
    return log


@pytest.fixture
async def writer(log: SlowLog) -> AsyncIterator[Writer]:
    writer = Writer(log, HEADER)
    yield writer
    await writer.close()


async def test_what_was_put_is_in_the_log_after_a_flush(log: SlowLog, writer: Writer) -> None:
    log.let.release()
    await writer.put(RUNNING)
    await writer.put(Token("a"))
    await writer.flush()
    assert (await log.tail("r1")).last == writer.last == 2


async def test_a_burst_while_the_log_is_busy_is_joined_into_one_append(log: SlowLog, writer: Writer) -> None:
    await writer.put(RUNNING)
    await asyncio.sleep(0)  # the first append is under way and waits
    for text in "abc":
        await writer.put(Token(text))
    log.let.release()
    log.let.release()
    await writer.flush()
    batch = (await log.tail("r1")).read(1)
    assert batch is not None
    assert batch.events == ((2, Token("abc")),)
    assert log.appends == [1, 1]


async def test_a_log_that_is_far_behind_makes_the_producer_wait(log: SlowLog, writer: Writer) -> None:
    async def produce() -> None:
        await writer.put(RUNNING)
        for number in range(10_000):
            await writer.put(Token(str(number)))

    producer = asyncio.create_task(produce())
    for _ in range(100):
        await asyncio.sleep(0)
    assert not producer.done()
    for _ in range(100):
        log.let.release()
    await producer
    await writer.flush()
    assert writer.transcript.text == "".join(map(str, range(10_000)))


async def test_an_event_that_may_not_come_here_never_reaches_the_log(log: SlowLog, writer: Writer) -> None:
    log.let.release()
    with pytest.raises(OutOfOrderError):
        await writer.put(Done("stop"))
    await writer.flush()
    assert (await log.tail("r1")).last == 0


async def test_a_writer_that_was_fenced_off_is_told(log: SlowLog, writer: Writer) -> None:
    await MemoryLog.append(log, "r1", [RUNNING], after=0)
    log.let.release()
    await writer.put(RUNNING)
    with pytest.raises(FencedError):
        await writer.flush()
    with pytest.raises(FencedError):
        await writer.put(Token("a"))


async def test_a_log_that_fails_in_any_way_keeps_nobody_waiting() -> None:
    class Broken(MemoryLog):
        async def append(self, run_id: str, events: Sequence[Event], *, after: int) -> int:
            raise ConnectionResetError("the log's server is gone")

    log = Broken(retention=60)
    await log.create(HEADER)
    writer = Writer(log, HEADER)
    await writer.put(RUNNING)
    with pytest.raises(ConnectionResetError):
        await writer.flush()
    await writer.close()
