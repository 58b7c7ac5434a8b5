"""A dataset to put documents into."""

from __future__ import annotations

import pytest
from hypothesis import settings

from ragchat.rag.ingest import Ingester
from ragchat.store.database import Database
from ragchat.store.documents import dataset_named

TENANT = "t"

# A slow machine is no defect of a splitter.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture
async def dataset(database: Database) -> str:
    """The id of an empty dataset of the tenant `TENANT`."""
    return (await dataset_named(database, TENANT, "docs")).id


@pytest.fixture
def ingester(database: Database) -> Ingester:
    """Cuts into small chunks, and takes documents of up to 10,000 bytes."""
    return Ingester(database, chunk_tokens=32, max_bytes=10_000)
