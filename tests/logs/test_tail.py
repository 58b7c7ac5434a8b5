"""Reading a run's events from a position, and waiting for more."""

from __future__ import annotations

import asyncio

from ragchat.events import Done, Header, RunStatus, Status, Token
from ragchat.logs.tail import MAX_BATCH, Tail

HEADER = Header(run_id="r1")
RUNNING = Status(RunStatus.RUNNING)


def filled(*texts: str) -> Tail:
    tail = Tail(HEADER)
    tail.extend([RUNNING, *map(Token, texts)])
    return tail


def test_a_read_gives_all_that_is_behind_the_position_with_tokens_joined_under_the_last_number() -> None:
    batch = filled("a", "b", "c").read(1)
    assert batch is not None
    assert batch.events == ((4, Token("abc")),)
    assert batch.last == 4


def test_a_read_at_the_end_gives_nothing() -> None:
    assert filled("a").read(2) is None


def test_a_read_from_inside_a_joined_range_gives_only_the_rest() -> None:
    batch = filled("a", "b", "c").read(3)
    assert batch is not None
    assert batch.events == ((4, Token("c")),)


async def test_a_reader_is_finished_when_it_has_read_the_end_of_the_run() -> None:
    tail = filled("a")
    with tail.reader(0, patience=30) as reader:
        await reader.next()
        assert not reader.finished
        tail.extend([Done("stop")])
        assert not reader.finished
        await reader.next()
        assert reader.finished


def test_readers_at_the_same_position_share_one_batch() -> None:
    tail = filled("a")
    assert tail.read(0) is tail.read(0)


def test_a_long_replay_comes_in_batches_without_a_gap() -> None:
    tail = filled(*map(str, range(2 * MAX_BATCH)))
    after, text = 0, ""
    while (batch := tail.read(after)) is not None:
        text += "".join(event.data for _, event in batch.events if isinstance(event, Token))
        after = batch.last
    assert after == 2 * MAX_BATCH + 1
    assert text == "".join(map(str, range(2 * MAX_BATCH)))


async def test_a_waiting_reader_gets_what_is_appended() -> None:
    tail = filled()
    with tail.reader(1, patience=30) as reader:
        waiting = asyncio.create_task(reader.next())
        await asyncio.sleep(0)
        tail.extend([Token("a")])
        batch = await waiting
    assert batch is not None
    assert batch.events == ((2, Token("a")),)


async def test_a_reader_that_waits_in_vain_reports_the_silence_and_goes_on() -> None:
    tail = filled()
    with tail.reader(1, patience=0.01) as reader:
        assert await reader.next() is None
        assert await reader.next() is None
        tail.extend([Token("a")])
        batch = await reader.next()
    assert batch is not None
    assert batch.last == 2


async def test_a_reader_that_leaves_takes_no_other_with_it() -> None:
    tail = filled()
    with tail.reader(1, patience=30) as leaving, tail.reader(1, patience=30) as staying:
        tasks = [asyncio.create_task(leaving.next()), asyncio.create_task(staying.next())]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait({tasks[0]})
        tail.extend([Token("a")])
        batch = await tasks[1]
    assert batch is not None
    assert batch.last == 2


async def test_a_reader_that_fell_behind_gets_everything_at_once() -> None:
    tail = filled()
    with tail.reader(1, patience=30) as reader:
        for text in "abc":
            tail.extend([Token(text)])
        batch = await reader.next()
    assert batch is not None
    assert batch.events == ((4, Token("abc")),)
