"""Each example answers a real question from the documentation that comes with ragchat."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, Route, async_playwright

from tests.service import QUESTION, Service, environment

EXAMPLES = Path(__file__).parents[2] / "examples"
RIGHT_PASSAGE = "Last-Event-ID"


def run(*command: str | Path, service: Service, question: str = QUESTION) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, command), question], env=environment(**service.variables),
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip


def assert_right_citation(text: str, reference: dict[str, Any]) -> None:
    """The text cites the passage of docs/protocol.md that answers the question."""
    cited = [reference["chunks"][int(number)] for number in re.findall(r"\[ID:(\d+)\]", text)]
    assert any(RIGHT_PASSAGE in chunk["content"] for chunk in cited if chunk["document_name"] == "protocol.md")


def frames(stream: str) -> list[Any]:
    return [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: ")]


def assert_answered(stream: str) -> None:
    """The event stream is a complete answer to the question."""
    *chunks, marker = [frame["data"] for frame in frames(stream)]
    assert marker is True
    assert_right_citation("".join(chunk["answer"] for chunk in chunks), chunks[-1]["reference"])


def test_websocket_client(service: Service) -> None:
    result = run(sys.executable, EXAMPLES / "websocket_client.py", service=service)
    assert (result.returncode, result.stderr) == (0, "")
    *text, documents = result.stdout.splitlines()
    assert re.search(r"\[ID:\d+\]", "\n".join(text))
    assert documents.endswith("× protocol.md")


def test_websocket_client_says_why_a_question_was_refused(service: Service) -> None:
    result = run(sys.executable, EXAMPLES / "websocket_client.py", service=service, question=" ")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error 400: The `question` is empty.")


@pytest.mark.parametrize(("arguments", "variables"), [((), {"RAGCHAT_TOKEN": "any"}), ((QUESTION,), {})])
def test_websocket_client_explains_itself(arguments: tuple[str, ...], variables: dict[str, str]) -> None:
    """… to whoever starts it without a question or without a token."""
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / "websocket_client.py"), *arguments], env=environment(**variables),
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines() == ['Usage: RAGCHAT_TOKEN=ragchat-… python websocket_client.py "A question"']


def test_curl(service: Service) -> None:
    result = run("sh", EXAMPLES / "curl.sh", service=service)
    assert (result.returncode, result.stderr) == (0, "")
    assert_answered(result.stdout)


async def test_eventsource(service: Service) -> None:
    """In a real browser, which asks once and stops when the answer is complete."""

    async def serve_page(route: Route) -> None:
        await route.fulfill(path=EXAMPLES / "eventsource.html", content_type="text/html")

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = await browser.new_page()
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        await page.route("**/eventsource.html", serve_page)
        await page.goto(f"{service.url}/eventsource.html#token={service.token}")
        await page.get_by_role("button", name="Ask").click()
        await page.locator("#sources li").first.wait_for()
        await assert_page_cites(page)
        await browser.close()
    assert len([url for url in requests if "/v1/conversation/completion?" in url]) == 1


async def assert_page_cites(page: Page) -> None:
    text = await page.locator("#answer").inner_text()
    sources = await page.locator("#sources li").all_inner_texts()
    assert "protocol.md" in [sources[int(number)] for number in re.findall(r"\[ID:(\d+)\]", text)]


async def announced(log: asyncio.StreamReader) -> str:
    """The address that Hypercorn says it runs on."""
    seen = ""
    while line := (await log.readline()).decode():
        seen += line
        if found := re.search(r"Running on (\S+)", line):
            return found[1]
    raise AssertionError(seen)


async def test_eventsource_page_is_served_beside_ragchat(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hypercorn", "--bind", "127.0.0.1:0", f"{EXAMPLES / 'eventsource.py'}:app",
        cwd=tmp_path, env=environment(), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async with httpx.AsyncClient(base_url=await announced(process.stderr), timeout=30) as http:
            page, ready = await http.get("/eventsource.html"), await http.get("/readyz")
        assert page.text == (EXAMPLES / "eventsource.html").read_text()
        assert ready.status_code == 200
    finally:
        process.terminate()
        await process.communicate()


async def test_mounted_app(tmp_path: Path) -> None:
    """The host's own users ask, strangers do not, and the host's own pages stay its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hypercorn", "--bind", "127.0.0.1:0", f"{EXAMPLES / 'mounted_app.py'}:app",
        cwd=tmp_path, env=environment(), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        url = await announced(process.stderr)
        question = {"chat_id": "default", "question": QUESTION}
        async with httpx.AsyncClient(base_url=url, timeout=30, follow_redirects=True) as browser:
            refused = await browser.get("/assistant/v1/conversation/completion", params=question)
            assert refused.status_code == 401
            assert "Hello ada" in (await browser.get("/login", params={"name": "ada"})).text
            answered = await browser.get("/assistant/v1/conversation/completion", params=question)
        assert_answered(answered.text)
    finally:
        process.terminate()
        await process.communicate()
