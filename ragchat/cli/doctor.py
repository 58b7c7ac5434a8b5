"""``ragchat doctor``: what is configured, and what of it works."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
from pydantic import SecretStr

from ragchat.blueprint import RagChat
from ragchat.cli.common import columns, prepare
from ragchat.errors import ConfigurationError, RagChatError
from ragchat.settings import PREFIX, Settings
from ragchat.telemetry.logs import Scrubber


@click.command()
def doctor() -> None:
    """Show every setting and where it comes from, then try what is configured. Changes nothing.

    The exit code is 1 when something does not work.
    """
    settings = prepare()
    for line in described(settings):
        click.echo(line)
    click.echo()
    if not asyncio.run(_examine(settings)):
        raise click.exceptions.Exit(1)


def described(settings: Settings) -> list[str]:
    """Every setting with its value and its origin; secrets are only said to be set."""
    return columns(
        [(f"{PREFIX}{name.upper()}", _shown(value), _origin(settings, name)) for name, value in settings]
    )


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return "(secret)" if value.get_secret_value() else ""
    if isinstance(value, tuple):
        return ",".join(value)
    return Scrubber().text(str(value))


def _origin(settings: Settings, name: str) -> str:
    return "environment" if name in settings.model_fields_set else "default"


async def _examine(settings: Settings) -> bool:
    ragchat = RagChat(settings)
    checks: dict[str, Callable[[], Awaitable[str]]] = {
        "data folder": lambda: asyncio.to_thread(_try_folder, settings.data_dir),
        "database": ragchat.database.check,
        "model": ragchat.backend.check,
    }
    try:
        return all([await _passes(name, check) for name, check in checks.items()])
    finally:
        await ragchat.backend.close()


async def _passes(name: str, check: Callable[[], Awaitable[str]]) -> bool:
    try:
        click.echo(f"ok      {name}: {await check()}")
    except RagChatError as error:
        click.echo(f"failed  {name}: {error}")
        return False
    return True


def _try_folder(folder: Path) -> str:
    """Write something where the folder is, or where it is going to be."""
    nearest = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return f"{folder} can be {'written' if nearest == folder.absolute() else 'made'}"
    except OSError as error:
        raise ConfigurationError(
            f"{PREFIX}DATA_DIR={str(folder)!r}: can't be written ({error.strerror}). "
            "Choose another folder, or change its owner."
        ) from error
