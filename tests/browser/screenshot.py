"""Takes the README's picture of the page, with a real answer: ``python -m tests.browser.screenshot``."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.browser.browsing import chromium, site

PICTURE = Path(__file__).parents[2] / "docs" / "screenshot.png"
QUESTION = "How do I continue an interrupted answer?"


async def take() -> None:
    """Ask the shipped documentation, and save what is to be seen when the answer is complete."""
    with tempfile.TemporaryDirectory() as folder:
        async with site(Path(folder)) as served, chromium() as browser:
            page = await browser.new_page(viewport={"width": 1280, "height": 800})
            await page.goto(served.link)
            await page.get_by_label("Your question").fill(QUESTION)
            await page.keyboard.press("Enter")
            await page.get_by_role("heading", name="Sources").wait_for()
            await page.screenshot(path=PICTURE)


if __name__ == "__main__":
    asyncio.run(take())
