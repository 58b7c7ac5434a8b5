"""Fixtures that several modules use. Services are real; a missing one skips its tests, and fails them in CI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ragchat.store.database import Database
from tests.services import postgres_database


@pytest.fixture(params=["sqlite", "postgres"])
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a new, empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite://{tmp_path / 'ragchat.db'}"
        return
    async with postgres_database() as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A new, migrated database of each kind."""
    database = Database(database_url)
    await database.open()
    yield database
    await database.close()
