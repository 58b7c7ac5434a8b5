"""``ragchat serve`` and ``ragchat migrate``."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

import click

from ragchat import server
from ragchat.api.health import VERSION
from ragchat.app import create_app
from ragchat.auth.tokens import create_token, list_tokens
from ragchat.blueprint import RagChat
from ragchat.cli.common import prepare, with_database
from ragchat.errors import ConfigurationError
from ragchat.store.database import Database

FIRST_TOKEN = "first"  # noqa: S105  # its name


@click.command()
@click.option("--host", help="Address to listen on.  [default: RAGCHAT_HOST or 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one.  [default: RAGCHAT_PORT or 8000]")
def serve(host: str | None, port: int | None) -> None:
    """Start the service and serve until Ctrl-C or SIGTERM.

    The first start makes an API token and shows it.
    """
    settings = prepare(host=host, port=port)
    ragchat = RagChat(settings)
    app = create_app(ragchat)
    token: str | None = None

    @app.before_serving
    async def make_first_token() -> None:
        nonlocal token
        if not await list_tokens(ragchat.database):
            token = await create_token(ragchat.database, FIRST_TOKEN)

    with _alone(ragchat.database):
        server.run(
            app,
            settings,
            drain=ragchat.drain,
            ready=lambda url: _announce(url, token),
            stopping=lambda: _say_stopping(settings.drain_timeout),
        )


@contextlib.contextmanager
def _alone(database: Database) -> Iterator[None]:
    """Keep other servers off an SQLite database: the events of a run are in the memory of its process.

    The lock belongs to the open file, so it ends with the process, however that ends.

    Raises:
        ConfigurationError: another server has it, or it can't be locked.
    """
    if database.dialect != "sqlite":
        yield
        return
    path = Path(f"{database.place}.serve.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise ConfigurationError(
            f"RAGCHAT_DATA_DIR: can't write {path} ({error.strerror}). Choose another folder, or change its owner."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"Another `ragchat serve` uses the database {database.place}, and a database takes one. "
                "Stop it, or choose another folder with RAGCHAT_DATA_DIR."
            ) from None
        yield


def _say_stopping(seconds: float) -> None:
    with contextlib.suppress(OSError):  # nobody may be listening any more
        click.echo(f"Stopping: up to {seconds:g} s for running answers; Ctrl-C again ends at once.", err=True)


def _announce(url: str, token: str | None) -> None:
    click.echo(f"ragchat {VERSION} is listening on {url}")
    if token is None:
        click.echo(f"Open {url}/ (the page asks for a token; `ragchat token create --name NAME` makes one)")
        return
    click.echo(f"Open {url}/#token={token}")
    click.echo(f"The token in it, {FIRST_TOKEN!r}, is not shown again. `ragchat token` makes and revokes others.")


@click.command()
def migrate() -> None:
    """Bring the database up to date; `ragchat serve` does so by itself.

    Several processes may do it at once: one works, the others wait.
    """

    async def say(database: Database) -> None:
        click.echo(f"The database {database.place} is up to date.")

    with_database(prepare(), say)
