"""`ragchat` as a user runs it: a program of its own, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RAGCHAT = (sys.executable, "-m", "ragchat")
QUESTION = "How do I continue an interrupted answer?"


def environment(**variables: str) -> dict[str, str]:
    """The environment of a program: ours, without what configures ragchat, and with ``variables``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAGCHAT_")}
    return {**inherited, "RAGCHAT_LOG_LEVEL": "error", **variables}


def ragchat(
    folder: Path, *arguments: str | Path, stdin: str | bytes = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*RAGCHAT, *map(str, arguments)], cwd=folder, env=environment(**variables), input=stdin,
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Service:
    """A running `ragchat serve`. ``output`` is what it said at its start."""

    process: subprocess.Popen[str]
    folder: Path
    url: str
    output: list[str]

    @property
    def token(self) -> str:
        return self.output[1].partition("#token=")[2]

    @property
    def variables(self) -> dict[str, str]:
        """What `ragchat chat` and the examples need to know."""
        return {"RAGCHAT_URL": self.url, "RAGCHAT_TOKEN": self.token}

    def stop(self) -> int:
        """End it as a supervisor does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


@contextlib.contextmanager
def serving(folder: Path, **variables: str) -> Iterator[Service]:
    """Start the service in ``folder``, on a free port."""
    with (
        (folder / "serve.log").open("w+") as log,
        subprocess.Popen(
            [*RAGCHAT, "serve", "--port", "0"], cwd=folder, env=environment(**variables),
            stdout=subprocess.PIPE, stderr=log, text=True,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        try:
            output = [process.stdout.readline().strip() for _ in range(2)]
            assert "listening on" in output[0], (folder / "serve.log").read_text()
            yield Service(process, folder, output[0].rpartition(" ")[2], output)
        finally:
            process.terminate()  # and not killed: a measurement of coverage is written at the end
