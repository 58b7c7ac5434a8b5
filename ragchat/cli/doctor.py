"""``ragchat doctor``: what is configured, and what of it works."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import click
from pydantic import SecretStr

from ragchat.backends.contract import Doubt
from ragchat.blueprint import RagChat
from ragchat.cli.common import columns, printable
from ragchat.errors import ConfigurationError, RagChatError
from ragchat.settings import PREFIX, Settings, examine
from ragchat.telemetry import logs
from ragchat.telemetry.logs import Scrubber


@click.command()
def doctor() -> None:
    """Show every setting and where it comes from, then try what is configured. Changes nothing.

    The exit code is 1 when something is wrong or does not work. While the value of a setting is wrong, nothing
    is tried.
    """
    settings, wrong = examine()
    for line in described(os.environ):
        click.echo(line)
    click.echo()
    for line in wrong:
        click.echo(f"failed  setting: {printable(line)}")
    works = settings is not None and asyncio.run(_try(settings))
    if wrong or not works:
        raise click.exceptions.Exit(1)


def described(environment: Mapping[str, str]) -> list[str]:
    """Every setting with its value, right or wrong, and its origin; secrets are only said to be set."""
    given = {name.upper(): value for name, value in environment.items()}
    rows = []
    for name, field in Settings.model_fields.items():
        variable = f"{PREFIX}{name.upper()}"
        value = given.get(variable, _written(field.default))
        origin = "environment" if variable in given else "default"
        rows.append((variable, _shown(value, secret=field.annotation is SecretStr), origin))
    return columns(rows)


def _written(default: object) -> str:
    """A default as it would be written in the environment."""
    match default:
        case SecretStr():
            return default.get_secret_value()
        case tuple():
            return ",".join(default)
        case _:
            return str(default)


def _shown(value: str, *, secret: bool) -> str:
    if secret:
        return "(secret)" if value else ""
    return printable(Scrubber().text(value))


async def _try(settings: Settings) -> bool:
    logs.configure(settings)
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
        line = await check()
        click.echo(f"{'warning' if isinstance(line, Doubt) else 'ok     '} {name}: {printable(line)}")
    except RagChatError as error:
        click.echo(f"failed  {name}: {printable(str(error))}")
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
