"""``ragchat token``: who may speak to the service."""

from __future__ import annotations

import click
from rich.console import Console
from rich.table import Table

from ragchat.auth.tokens import create_token, list_tokens, revoke_token
from ragchat.cli.common import prepare, with_database
from ragchat.store.models import ApiToken


@click.group()
def token() -> None:
    """Make, list and revoke API tokens."""


@token.command()
@click.option("--name", required=True, help="What it is for; several tokens may have the same name.")
def create(name: str) -> None:
    """Make a token and print it, and nothing else. It can't be shown again."""
    click.echo(with_database(prepare(), lambda database: create_token(database, name)))


@token.command("list")
def list_() -> None:
    """Show all tokens with their last characters, oldest first."""
    table = Table("id", "name", "ends in", "created", "last used", "revoked", box=None)
    for row in with_database(prepare(), list_tokens):
        table.add_row(*_columns(row))
    Console(soft_wrap=True).print(table)


@token.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Revoke the tokens called NAME, or the one with that id."""
    count = with_database(prepare(), lambda database: revoke_token(database, name))
    click.echo(f"{count} token{'s' if count > 1 else ''} revoked.")


def _columns(row: ApiToken) -> list[str]:
    times = (row.created_at, row.last_used_at, row.revoked_at)
    return [row.id, row.name, row.hint, *(f"{time:%Y-%m-%d %H:%M}" if time else "" for time in times)]
