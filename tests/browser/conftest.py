"""A page to test, and a watch over it: no test may make it complain, or ask another host for anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page

from ragchat.auth.identity import Identify
from ragchat.backends.contract import Backend
from ragchat.events import Passage
from tests.browser.browsing import Site, chromium, site
from tests.fakes.backend import FixedRetriever


class Serve(Protocol):
    async def __call__(
        self,
        backend: Backend | None = None,
        *,
        passages: Sequence[Passage] = (),
        prefix: str | None = None,
        identify: Identify | None = None,
    ) -> Site:
        """Serve ragchat: as it comes, or with a backend that is given these passages."""


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(
            backend: Backend | None = None,
            *,
            passages: Sequence[Passage] = (),
            prefix: str | None = None,
            identify: Identify | None = None,
        ) -> Site:
            retriever = FixedRetriever(passages) if backend else None
            served = site(tmp_path, backend=backend, retriever=retriever, prefix=prefix, identify=identify)
            return await stack.enter_async_context(served)

        yield start


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest.fixture
def complaints() -> list[str]:
    """What the page's console says of errors. A test that provokes some looks at them and clears the list."""
    return []


@pytest.fixture
def language() -> str:
    """The browser's language."""
    return "en-GB"


@pytest.fixture
async def page(browser: Browser, complaints: list[str], language: str) -> AsyncIterator[Page]:
    context = await browser.new_context(locale=language, viewport={"width": 800, "height": 600})
    page = await context.new_page()
    hosts: set[str] = set()

    def listen(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            complaints.append(message.text)

    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.on("console", listen)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    await context.close()
    assert len(hosts) == 1, "the page asks nobody but its own server"
    assert complaints == []
