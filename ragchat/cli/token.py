"""``ragchat token``: who may speak to the service."""

from __future__ import annotations

import click

from ragchat.auth.tokens import create_token, list_tokens, revoke_token
from ragchat.cli.common import columns, not_blank, prepare, printable, with_database
from ragchat.store.models import ApiToken


@click.group()
def token() -> None:
    """Make, list and revoke API tokens."""


@token.command()
@click.option(
    "--name", required=True, callback=not_blank, help="What it is for; several tokens may have the same name."
)
def create(name: str) -> None:
    """Make a token and print it, and nothing else. It can't be shown again."""
    click.echo(with_database(prepare(), lambda database: create_token(database, name)))


@token.command("list")
def list_() -> None:
    """Show all tokens with their last characters, oldest first."""
    head = ["id", "name", "ends in", "created", "last used", "revoked"]
    rows = [_row(token) for token in with_database(prepare(), list_tokens)]
    for line in columns([head, *rows]):
        click.echo(line)


@token.command()
@click.argument("name")
def revoke(name: str) -> None:
    """Revoke the tokens called NAME, or the one with that id."""
    count = with_database(prepare(), lambda database: revoke_token(database, name))
    click.echo(f"{count} token{'s' if count > 1 else ''} revoked.")


def _row(token: ApiToken) -> list[str]:
    times = (token.created_at, token.last_used_at, token.revoked_at)
    shown = [f"{time:%Y-%m-%d %H:%M}" if time else "" for time in times]
    return [token.id, printable(token.name), token.hint, *shown]
