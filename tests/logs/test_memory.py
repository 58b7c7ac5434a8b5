"""What is special about the log of one process."""

from __future__ import annotations

import asyncio

import pytest

from ragchat.errors import GoneError
from ragchat.events import Done, Header, RunStatus, Status
from ragchat.logs.memory import MemoryLog


async def test_a_finished_run_is_forgotten_after_the_retention_time() -> None:
    log = MemoryLog(retention=0)
    await log.create(Header(run_id="r1"))
    await log.append("r1", [Status(RunStatus.RUNNING), Done("stop")], after=0)

    async def forgotten() -> None:
        while True:
            await log.tail("r1")
            await asyncio.sleep(0)

    with pytest.raises(GoneError, match="no longer kept"):
        await asyncio.wait_for(forgotten(), 5)
