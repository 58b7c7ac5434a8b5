"""``ragchat chat``: a conversation in the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Final

import click

from ragchat.cli.common import printable
from ragchat.client import Answer, ChatError, Client, ClientError

_INTERRUPTED: Final = 128 + signal.SIGINT
"""What shells call a program that Ctrl-C ended."""
_CITATION: Final = re.compile(r"\[ID:(\d+)\]")


@click.command()
@click.option(
    "--url", envvar="RAGCHAT_URL", default="http://127.0.0.1:8000", show_default=True, show_envvar=True,
    help="Where the service is.",
)  # fmt: skip
@click.option(
    "--token", envvar="RAGCHAT_TOKEN", default="", show_envvar=True, help="An API token or a session JWT."
)
@click.option("--chat", "chat_id", default="default", show_default=True, help="Id of the chat to talk to.")
@click.option("--question", help="Ask this one question and exit.")
def chat(url: str, token: str, chat_id: str, question: str | None) -> None:
    """Ask questions, watch the answers grow, and see their sources.

    Ctrl-C stops an answer, Ctrl-D ends the conversation. Without a terminal, every line of standard input is a
    question, and the first one that fails or is stopped is the last one. The exit code is 1 when one failed, and
    130 when one was stopped.
    """
    if not token:
        raise click.ClickException(
            "The service answers only whom it knows. Make a token with `ragchat token create --name NAME`, then "
            "type `RAGCHAT_TOKEN=… ragchat chat` with the token in place of the dots."
        )
    person = question is None and sys.stdin.isatty()
    conversation = Conversation(_client(url, token), chat_id, patient=person)
    with asyncio.Runner() as runner:
        try:
            for text in _typed() if person else _given(question):
                stopped = runner.run(conversation.ask(text))
                if stopped and not person:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            click.echo("(stopped)", err=True)
            raise click.exceptions.Exit(_INTERRUPTED) from None
        finally:
            runner.run(conversation.close())


def _client(url: str, token: str) -> Client:
    try:
        return Client(url, token)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def _typed() -> Iterator[str]:
    """What a person types, line by line."""
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo("\nCtrl-D ends the conversation.", err=True)
            continue
        if line:
            yield line


def _given(question: str | None) -> Iterator[str]:
    """The one question there is, or the lines of standard input; always text that can be sent."""
    if question is not None:
        yield question.encode(errors="replace").decode()
        return
    for line in sys.stdin.buffer:
        if text := line.decode(errors="replace").strip():
            yield text


class Conversation:
    """Questions and answers of one session, printed as they come.

    Args:
        client: whom to ask; closed with the conversation.
        chat_id: the chat.
        patient: whether to print errors and go on.
    """

    def __init__(self, client: Client, chat_id: str, *, patient: bool) -> None:
        self._client = client
        self._chat_id = chat_id
        self._patient = patient
        self._session_id: str | None = None

    async def ask(self, question: str) -> bool:
        """Ask, and print the answer and its sources. Returns whether Ctrl-C stopped it.

        Raises:
            ClientError: the question failed, and this is no patient conversation.
        """
        answer = self._client.ask(question, self._chat_id, self._session_id)
        with _interruptible(answer) as stopping:
            await self._show(answer)
        self._session_id = answer.session_id or self._session_id
        return bool(stopping)

    async def _show(self, answer: Answer) -> None:
        try:
            await _print(answer)
        except ClientError as error:
            if not self._patient:
                raise _with_advice(error) from error
            click.echo(f"Error: {printable(str(_with_advice(error)))}", err=True)

    async def close(self) -> None:
        """End the conversation."""
        await self._client.close()


async def _print(answer: Answer) -> None:
    try:
        async for text in answer:
            click.echo(printable(text), nl=False)
    finally:
        if answer.text:
            click.echo()
    for line in sources(answer):
        click.echo(printable(line))


def sources(answer: Answer) -> list[str]:
    """The passages that an answer cites, in the order in which it does, as a person reads them."""
    chunks = answer.reference.get("chunks", [])
    cited = dict.fromkeys(int(number) for number in _CITATION.findall(answer.text))
    return [
        f"[ID:{number}] {chunks[number]['document_name']} — {chunks[number]['similarity']:.2f}"
        for number in cited
        if number < len(chunks)
    ]


def _with_advice(error: ClientError) -> ClientError:
    if not isinstance(error, ChatError) or error.code != 401:
        return error
    return ChatError(error.code, f"{error} For `ragchat chat`, set RAGCHAT_TOKEN or pass --token.")


@contextlib.contextmanager
def _interruptible(answer: Answer) -> Iterator[Sequence[asyncio.Task[None]]]:
    """Let Ctrl-C stop the answer, and a second one the program. Gives what is being done to stop it."""
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Task[None]] = []

    def stop() -> None:
        if stopping:
            raise KeyboardInterrupt
        stopping.append(loop.create_task(_stop(answer)))

    loop.add_signal_handler(signal.SIGINT, stop)
    try:
        yield stopping
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def _stop(answer: Answer) -> None:
    try:
        await answer.cancel()
    except ClientError as error:
        click.echo(f"\nError: {printable(str(error))}", err=True)
