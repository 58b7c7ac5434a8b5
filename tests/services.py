"""Where the real services for tests are, and a clear word when one is missing."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

POSTGRES = os.environ.get("TEST_POSTGRES_URL", "postgres://postgres@127.0.0.1:5432")


def missing(service: str, error: Exception) -> None:
    """Skip the test for want of a service, or fail it where all services have to be there."""
    message = f"{service} can't be reached: {error}"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@asynccontextmanager
async def postgres_database() -> AsyncIterator[str]:
    """The URL of a new, empty PostgreSQL database that is dropped afterwards."""
    name = f"ragchat_test_{uuid.uuid4().hex}"
    try:
        admin = await asyncpg.connect(f"{POSTGRES}/postgres", timeout=5)
    except (OSError, asyncpg.PostgresError) as error:
        missing("PostgreSQL", error)
        raise
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        yield f"{POSTGRES}/{name}"
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()
