"""`ragchat chat`, as a program, at a terminal and in a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.model_server import Act, ModelServer, delta, sse
from tests.service import QUESTION, RAGCHAT, Service, environment, ragchat, serving

CITATION = re.compile(r"\[ID:\d+\]")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("chat")) as service:
        yield service


def test_one_question_is_answered_with_its_sources(service: Service) -> None:
    result = ragchat(service.folder, "chat", "--question", QUESTION, **service.variables)
    assert (result.returncode, result.stderr) == (0, "")
    text, sources = split(result.stdout)
    assert CITATION.findall(text)
    assert sources
    assert all(re.fullmatch(r"\[ID:\d+\] \S+ — [01]\.\d\d", line) for line in sources)
    assert any(" protocol.md — " in line for line in sources)


def split(output: str) -> tuple[str, list[str]]:
    """An answer's text and the lines of its sources."""
    lines = output.splitlines()
    sources = [line for line in lines if line.startswith("[ID:")]
    return "\n".join(lines[: len(lines) - len(sources)]), sources


def test_options_go_before_the_environment(service: Service) -> None:
    options = ("--url", service.url, "--token", service.token)
    wrong = {"RAGCHAT_URL": "http://127.0.0.1:9", "RAGCHAT_TOKEN": "wrong"}
    assert ragchat(service.folder, "chat", *options, "--question", QUESTION, **wrong).returncode == 0


def test_every_line_of_a_pipe_is_a_question_of_one_session(service: Service) -> None:
    result = ragchat(service.folder, "chat", stdin=f"{QUESTION}\n\n{QUESTION}\n", **service.variables)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count(" protocol.md — ") >= 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--token", "wrong"), "RAGCHAT_TOKEN or pass --token"),
        (("--token", "…"), "characters that no token has"),
        (("--url", "localhost:8000"), "is no address of a service"),
        (("--url", "http://127.0.0.1:9"), "No answer from http://127.0.0.1:9/"),
        (("--chat", "nobody"), "There is no chat 'nobody'"),
        (("--question", " "), "The `question` is empty"),
    ],
)
def test_what_is_wrong_is_one_clear_line(service: Service, options: tuple[str, str], expected: str) -> None:
    result = ragchat(service.folder, "chat", "--question", QUESTION, *options, **service.variables)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert expected in line


def test_without_a_token_the_first_thing_said_is_what_to_type(tmp_path: Path) -> None:
    """… whether or not there is a service, and before a question could be typed."""
    result = ragchat(tmp_path, "chat", stdin=f"{QUESTION}\n")
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "`ragchat token create --name NAME`" in line
    assert "`RAGCHAT_TOKEN=… ragchat chat`" in line


class Terminal:
    """A program at a terminal, and what it has written there."""

    def __init__(self, service: Service, *arguments: str) -> None:
        self._controller, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [*RAGCHAT, "chat", *arguments], env=environment(**service.variables), cwd=service.folder,
            stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        )  # fmt: skip
        os.close(terminal)
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._controller, text.encode())

    def wait_for(self, pattern: str) -> str:
        """Read until ``pattern`` has come, and return everything up to its end since the last time."""
        while (found := re.search(pattern, self._seen)) is None:
            self._read()
        text, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return text

    def interrupt_until(self, text: str) -> None:
        """Press Ctrl-C until ``text`` has come: Python hears none between showing a prompt and waiting."""
        while text not in self._seen:
            self.process.send_signal(signal.SIGINT)
            if select.select([self._controller], [], [], 0.5)[0]:
                self._read()

    def _read(self) -> None:
        self._seen += os.read(self._controller, 65536).decode(errors="replace")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._controller)


@contextlib.contextmanager
def at_a_terminal(service: Service, *arguments: str) -> Iterator[Terminal]:
    terminal = Terminal(service, *arguments)
    try:
        yield terminal
    finally:
        terminal.close()


def test_a_conversation_ends_with_ctrl_d(service: Service) -> None:
    with at_a_terminal(service) as terminal:
        terminal.wait_for("> ")
        terminal.type(f"{QUESTION}\n")
        assert "protocol.md — " in terminal.wait_for(r"\n> ")
        terminal.type("\x04")
        assert terminal.process.wait(timeout=20) == 0


def test_ctrl_c_at_the_prompt_says_how_to_end(service: Service) -> None:
    with at_a_terminal(service) as terminal:
        terminal.wait_for("> ")
        terminal.interrupt_until("Ctrl-D ends the conversation.")
        terminal.wait_for(r"\n> ")
        assert terminal.process.poll() is None


def test_an_error_does_not_end_a_conversation(service: Service) -> None:
    with at_a_terminal(service, "--chat", "nobody") as terminal:
        terminal.wait_for("> ")
        terminal.type("Hello?\n")
        assert "Error: There is no chat 'nobody'" in terminal.wait_for(r"\n> ")


def test_a_second_ctrl_c_ends_the_program(tmp_path: Path) -> None:
    """… when the first one can't be delivered, because the service is mute."""
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        subprocess.Popen(
            [*RAGCHAT, "chat", "--question", QUESTION, "--url", f"http://127.0.0.1:{mute.getsockname()[1]}"],
            env=environment(RAGCHAT_TOKEN="any"), stderr=subprocess.PIPE, text=True,
        ) as process,
    ):  # fmt: skip
        assert process.stderr is not None
        connection, _ = mute.accept()
        while not select.select([process.stderr], [], [], 0.5)[0]:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert process.stderr.read() == "(stopped)\n"
        connection.close()


async def test_ctrl_c_stops_the_answer_and_the_conversation_goes_on(tmp_path: Path) -> None:
    """… and the model hears of it."""
    async with ModelServer() as model:
        model.only(sse(delta("Half an answer")), Act.HANG)
        await asyncio.to_thread(interrupt_an_answer, tmp_path, model.base_url)
        await model.closed(0)


def interrupt_an_answer(folder: Path, model: str) -> None:
    variables = {"RAGCHAT_OPENAI_BASE_URL": model, "RAGCHAT_OPENAI_MODEL": "endless"}
    with serving(folder, **variables) as service, at_a_terminal(service) as terminal:
        terminal.wait_for("> ")
        terminal.type("Hello?\n")
        terminal.wait_for("Half an answer")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for(r"\n> ")
        terminal.type("\x04")
        assert terminal.process.wait(timeout=20) == 0


async def test_ctrl_c_during_the_one_question_ends_with_130(tmp_path: Path) -> None:
    async with ModelServer() as model:
        model.only(sse(delta("Half an answer")), Act.HANG)
        await asyncio.to_thread(interrupt_the_one_question, tmp_path, model.base_url)
        await model.closed(0)


def interrupt_the_one_question(folder: Path, model: str) -> None:
    variables = {"RAGCHAT_OPENAI_BASE_URL": model, "RAGCHAT_OPENAI_MODEL": "endless"}
    with (
        serving(folder, **variables) as service,
        subprocess.Popen(
            [*RAGCHAT, "chat", "--question", QUESTION], env=environment(**service.variables),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
        ) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.read(4) == b"Half"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (130, b"(stopped)\n")
        assert output.splitlines()[0] == b" an answer"
