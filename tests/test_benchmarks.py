"""Benchmarks run and print their tables. What they measure is no matter of a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

STREAMING = Path(__file__).parent.parent / "benchmarks" / "streaming.py"


def test_streaming_compares_all_servers_on_both_transports() -> None:
    tiny = ["--rounds=1", "--seconds=0.05", "--clients", "1", "2", "--viewers=2", "--view-seconds=0.1"]
    finished = subprocess.run(
        [sys.executable, STREAMING, *tiny], capture_output=True, text=True, timeout=50, check=False
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    rows = [line.split("  ") for line in finished.stdout.splitlines()]
    measured = [tuple(cell.strip() for cell in row if cell)[:3] for row in rows if row[0] in {"WebSocket", "SSE"}]
    peers = ("ragchat", "Quart + Hypercorn", "FastAPI + uvicorn")
    assert measured == [
        (transport, clients, server)
        for numbers in (("1", "2"), ("2",))
        for transport in ("WebSocket", "SSE")
        for clients in numbers
        for server in peers
    ]
    assert [row[0] for row in rows[-2:]] == ["ragchat", "Quart, queues"]
