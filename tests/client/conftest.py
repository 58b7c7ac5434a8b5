"""A scripted service, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ragchat.client import Client
from tests.client.scripts import TOKEN
from tests.fakes.model_server import ModelServer


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def client(server: ModelServer) -> AsyncIterator[Client]:
    async with Client(f"http://127.0.0.1:{server.port}/assistant", TOKEN) as client:
        yield client
