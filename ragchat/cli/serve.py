"""``ragchat serve`` and ``ragchat migrate``."""

from __future__ import annotations

import click

from ragchat import server
from ragchat.api.health import VERSION
from ragchat.app import create_app
from ragchat.auth.tokens import create_token, list_tokens
from ragchat.blueprint import RagChat
from ragchat.cli.common import prepare, with_database
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

    server.run(app, settings, drain=ragchat.drain, ready=lambda url: _announce(url, token))


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
