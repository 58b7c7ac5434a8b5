"""What every log promises, whoever keeps it."""

from __future__ import annotations

import pytest

from ragchat.errors import FencedError, GoneError
from ragchat.events import Done, Header, RunStatus, Status, Token
from ragchat.logs.contract import Log
from ragchat.logs.memory import MemoryLog

HEADER = Header(run_id="r1")
RUNNING = Status(RunStatus.RUNNING)


@pytest.fixture
async def log() -> Log:
    log = MemoryLog(retention=60)
    await log.create(HEADER)
    return log


async def test_numbers_are_contiguous_from_one(log: Log) -> None:
    assert await log.append("r1", [RUNNING, Token("a")], after=0) == 2
    assert await log.append("r1", [Token("b")], after=2) == 3
    batch = (await log.tail("r1")).read(0)
    assert batch is not None
    assert batch.events == ((1, RUNNING), (3, Token("ab")))


async def test_a_second_writer_is_fenced_off_and_leaves_no_trace(log: Log) -> None:
    await log.append("r1", [RUNNING], after=0)
    with pytest.raises(FencedError):
        await log.append("r1", [Token("from a zombie")], after=0)
    assert (await log.tail("r1")).last == 1


async def test_nothing_comes_after_the_end(log: Log) -> None:
    await log.append("r1", [RUNNING, Done("stop")], after=0)
    with pytest.raises(FencedError):
        await log.append("r1", [Token("late")], after=2)


async def test_a_run_has_one_log(log: Log) -> None:
    with pytest.raises(FencedError):
        await log.create(HEADER)


async def test_a_run_that_nobody_keeps_is_gone(log: Log) -> None:
    with pytest.raises(GoneError):
        await log.tail("other")
    with pytest.raises(GoneError):
        await log.append("other", [RUNNING], after=0)


async def test_a_closed_log_keeps_nothing(log: Log) -> None:
    await log.append("r1", [RUNNING, Done("stop")], after=0)
    await log.close()
    with pytest.raises(GoneError):
        await log.tail("r1")
