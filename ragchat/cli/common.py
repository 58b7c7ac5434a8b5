"""What commands have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import click

from ragchat.settings import Settings, load
from ragchat.store.database import Database
from ragchat.telemetry import logs

T = TypeVar("T")

_CONTROLS: Final = dict.fromkeys(code for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t")


def printable(text: str) -> str:
    """``text`` without what moves the cursor or worse: models and documents are not trusted with terminals."""
    return text.translate(_CONTROLS)


def not_blank(_context: click.Context, option: click.Parameter, value: str) -> str:
    """A callback of options: ``value`` without white space around it, refused when nothing is left."""
    name = value.strip()
    if not name:
        raise click.ClickException(f"{option.opts[0]} is empty. Give a name that says what it is for.")
    return name


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns; never cut, so that what is in them can be copied."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def prepare(**overrides: object) -> Settings:
    """Read the settings and send log lines where they say; ``overrides`` that are None do not count.

    Raises:
        ConfigurationError: a setting does not make sense.
    """
    settings = load(**{name: value for name, value in overrides.items() if value is not None})
    logs.configure(settings)
    return settings


def with_database(settings: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    """Open the configured database, do ``work`` with it, and close it again.

    Raises:
        ConfigurationError: the database can't be used. Also whatever ``work`` raises.
    """

    async def do() -> T:
        database = Database(settings.database)
        await database.open()
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(do())
