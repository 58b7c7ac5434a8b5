"""Following a run: replay and live are one act."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragchat import stream
from ragchat.errors import GoneError
from ragchat.events import Done, Event, Header, Reference, RunStatus, Status, Token, Transcript
from ragchat.logs.memory import MemoryLog

RUNNING = Status(RunStatus.RUNNING)


async def log_with(*events: Event) -> MemoryLog:
    log = MemoryLog(retention=60)
    await log.create(Header(run_id="r1"))
    await log.append("r1", events, after=0)
    return log


async def test_a_finished_run_is_replayed_and_ends() -> None:
    log = await log_with(RUNNING, Token("a"), Token("b"), Done("stop"))
    batches = [batch async for batch in stream.follow(log, "r1", 0, heartbeat=30)]
    assert [batch.events for batch in batches if batch] == [
        ((1, RUNNING), (3, Token("ab")), (4, Done("stop"))),
    ]


async def test_silence_is_reported_again_and_again() -> None:
    log = await log_with(RUNNING)
    follower = stream.follow(log, "r1", 1, heartbeat=0.01)
    assert [await anext(follower), await anext(follower)] == [None, None]
    await log.append("r1", [Done("stop")], after=1)
    last = await anext(follower)
    assert last is not None
    assert last.last == 2
    with pytest.raises(StopAsyncIteration):
        await anext(follower)


async def test_who_has_read_the_end_already_waits_for_nothing() -> None:
    log = await log_with(RUNNING, Done("stop"))
    assert [batch async for batch in stream.follow(log, "r1", 2, heartbeat=30)] == []


async def test_a_run_that_nobody_keeps_is_gone() -> None:
    with pytest.raises(GoneError):
        await anext(stream.follow(MemoryLog(60), "r1", 0, heartbeat=30))


async def test_collecting_waits_for_the_end() -> None:
    log = await log_with(RUNNING, Token("a"))
    collecting = asyncio.create_task(stream.collect(log, "r1"))
    await asyncio.sleep(0)
    await log.append("r1", [Token("b"), Reference(total=2, final=True), Done("stop")], after=2)
    transcript = await collecting
    assert (transcript.text, transcript.reference) == ("ab", Reference(total=2, final=True))


@given(
    texts=st.lists(st.text(max_size=4), max_size=30),
    appends=st.lists(st.integers(1, 5), max_size=30),
    cuts=st.lists(st.integers(0, 40), max_size=6),
)
def test_whoever_reads_from_wherever_it_was_cut_gets_the_same_text(
    texts: list[str], appends: list[int], cuts: list[int]
) -> None:
    """A follower is cut off after some batches and comes back with its last number, while events are written."""
    events = [RUNNING, *map(Token, texts), Done("stop")]

    async def scenario() -> None:
        log = MemoryLog(60)
        await log.create(Header(run_id="r1"))
        writing = asyncio.create_task(write(log, events, appends))
        transcript, after = Transcript(), 0
        for patience in [*cuts, 10_000]:
            follower = stream.follow(log, "r1", after, heartbeat=30)
            for _ in range(patience):
                batch = await anext(follower, None)
                if batch is None:
                    break
                transcript.extend([event for _, event in batch.events])
                after = batch.last
            await follower.aclose()
        await writing
        assert transcript.text == "".join(texts)
        assert after == len(events)

    asyncio.run(scenario())


async def write(log: MemoryLog, events: Sequence[Event], appends: Sequence[int]) -> None:
    sizes, last = iter(appends), 0
    while last < len(events):
        size = next(sizes, 3)
        last = await log.append("r1", events[last : last + size], after=last)
        await asyncio.sleep(0)


class CountingCodec:
    """Counts how often it is asked to encode."""

    def __init__(self) -> None:
        self.calls = 0

    def encode(self, header: Header, events: Sequence[tuple[int, Event]]) -> list[tuple[int, bytes]]:
        self.calls += 1
        return [(seq, b"{}") for seq, _ in events]


def as_text(run_id: str, frames: Sequence[tuple[int, bytes]]) -> tuple[str, ...]:
    return tuple(f"{run_id}:{seq}" for seq, _ in frames)


def as_bytes(run_id: str, frames: Sequence[tuple[int, bytes]]) -> tuple[bytes, ...]:
    return tuple(json for _, json in frames)


async def test_a_range_is_encoded_once_for_all_who_are_there_and_once_per_framing() -> None:
    log, codec = await log_with(RUNNING, Done("stop")), CountingCodec()
    for _ in range(3):
        async for batch in stream.follow(log, "r1", 0, heartbeat=30):
            assert batch is not None
            assert stream.encoded(batch, codec, as_text) == ("r1:1", "r1:2")
            assert stream.encoded(batch, codec, as_bytes) == (b"{}", b"{}")
    assert codec.calls == 2
