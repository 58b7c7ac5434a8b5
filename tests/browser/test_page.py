"""The chat page in a real browser, in front of a real server: what its readers are promised."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from playwright.async_api import Page, expect
from quart import Request, Websocket

from ragchat.auth.tokens import create_token
from ragchat.backends.contract import Finish
from ragchat.errors import BackendError
from ragchat.events import Replace, Token
from ragchat.store.models import Run, Session
from tests.browser.browsing import Site, relayed
from tests.browser.conftest import Serve
from tests.fakes.backend import ScriptedBackend, Step, passage, words

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"


async def ask(page: Page, question: str = "How?") -> None:
    await page.get_by_label("Your question").fill(question)
    await page.keyboard.press("Enter")


async def answered(page: Page, text: str) -> None:
    """Wait until the last answer is this, and the stream that brought it is at its end."""
    await expect(page.locator(".answer").last).to_have_text(text)
    await expect(page.get_by_role("article").last).to_have_attribute("aria-busy", "false")


async def runs(site: Site) -> list[Run]:
    """All runs, oldest first."""
    return await site.ragchat.database.run(lambda: Run.all().order_by("created_at"))


def gated() -> tuple[ScriptedBackend, asyncio.Event]:
    """A backend that says "the first half" and, when the gate is opened, " and the second."."""
    gate = asyncio.Event()
    return ScriptedBackend([Token("the first half"), gate, Token(" and the second."), Finish()]), gate


async def test_the_shipped_documentation_answers_with_its_source(serve: Serve, page: Page) -> None:
    site = await serve()
    await page.goto(site.link)
    await ask(page, "How do I continue an interrupted answer?")
    await expect(page.locator(".answer")).to_contain_text("Last-Event-ID")
    await expect(page.get_by_role("heading", name="Sources")).to_be_visible()
    await page.get_by_role("button", name="Source 1").first.click()
    await expect(page.locator("blockquote").first).to_be_visible()
    await expect(page.locator("blockquote").first).to_contain_text("Last-Event-ID")
    await expect(page.locator("summary").first).to_contain_text("protocol.md")


async def test_the_answer_is_seen_while_it_grows(serve: Serve, page: Page) -> None:
    backend, gate = gated()
    site = await serve(backend)
    await page.goto(site.link)
    await ask(page)
    await expect(page.locator(".answer")).to_have_text("the first half")
    await expect(page.get_by_role("article")).to_have_attribute("aria-busy", "true")
    await expect(page.get_by_role("status")).to_have_text("Answering…")
    gate.set()
    await answered(page, "the first half and the second.")
    await expect(page.get_by_role("status")).to_have_text("The answer is complete.")


async def test_stop_ends_the_run_and_keeps_the_text(serve: Serve, page: Page) -> None:
    backend, _ = gated()
    site = await serve(backend)
    await page.goto(site.link)
    await ask(page)
    await expect(page.locator(".answer")).to_have_text("the first half")
    await page.get_by_role("button", name="Stop").click()
    await expect(page.get_by_text("Stopped here.", exact=True).first).to_be_visible()
    await expect(page.locator(".answer")).to_have_text("the first half")
    await expect(page.get_by_role("button", name="Ask")).to_be_visible()
    assert backend.closed.is_set()
    assert [run.finish_reason for run in await runs(site)] == ["cancelled"]


async def test_a_cut_connection_loses_nothing(serve: Serve, page: Page, complaints: list[str]) -> None:
    backend, gate = gated()
    site = await serve(backend)
    async with relayed(site.link) as (relay, link):
        await page.goto(link)
        await ask(page)
        await expect(page.locator(".answer")).to_have_text("the first half")
        relay.cut()
        await expect(page.get_by_text("Connection lost, reconnecting…")).to_be_visible()
        relay.broken = False
        await expect(page.get_by_text("Connection lost, reconnecting…")).to_be_hidden()
        gate.set()
        await answered(page, "the first half and the second.")
    assert len(backend.prompts) == 1
    assert all("Failed to load resource" in complaint for complaint in complaints)
    complaints.clear()


async def test_a_reload_continues_the_answer_where_it_was(serve: Serve, page: Page) -> None:
    backend, gate = gated()
    site = await serve(backend)
    await page.goto(site.link)
    await ask(page)
    await expect(page.locator(".answer")).to_have_text("the first half")
    await page.reload()
    await expect(page.locator(".answer")).to_have_text("the first half")
    gate.set()
    await answered(page, "the first half and the second.")
    await page.reload()
    await answered(page, "the first half and the second.")
    assert len(backend.prompts) == 1


@pytest.mark.parametrize("fragment", ["", "#token=ragchat-wrong"])
async def test_a_token_that_is_missing_or_refused_is_asked_for(
    serve: Serve, page: Page, complaints: list[str], fragment: str
) -> None:
    site = await serve(ScriptedBackend(words("Welcome.")))
    await page.goto(site.url + fragment)
    await ask(page)
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.get_by_label("Token").fill(site.token)
    await page.keyboard.press("Enter")
    await answered(page, "Welcome.")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    assert len(complaints) == 1
    assert "401" in complaints.pop()


async def test_the_token_stays_out_of_every_address(serve: Serve, page: Page) -> None:
    site = await serve(ScriptedBackend(words("Yes.")))
    await page.goto(site.link)
    await ask(page)
    await answered(page, "Yes.")
    assert page.url == site.url
    assert len(site.requests) > 4
    assert not [address for address in site.requests if site.token in address]


async def test_a_failure_is_a_sentence_and_can_be_tried_again(serve: Serve, page: Page) -> None:
    attempts: list[list[Step]] = [[Token("It "), BackendError("The model broke off.")], words("It works.")]
    site = await serve(ScriptedBackend(lambda _: attempts.pop(0)))
    await page.goto(site.link)
    await ask(page)
    await expect(page.locator(".failure")).to_contain_text("The answer failed. The model broke off.")
    await expect(page.locator(".answer")).to_have_text("It")
    await page.get_by_role("button", name="Try again").click()
    await answered(page, "It works.")
    await expect(page.locator(".failure")).to_be_hidden()


async def test_a_server_that_is_gone_is_a_sentence_and_can_be_tried_again(
    serve: Serve, page: Page, complaints: list[str]
) -> None:
    site = await serve(ScriptedBackend(words("Here again.")))
    async with relayed(site.link) as (relay, link):
        await page.goto(link)
        relay.cut()
        await ask(page)
        await expect(page.locator(".failure")).to_contain_text("The server can’t be reached.")
        relay.broken = False
        await page.get_by_role("button", name="Try again").click()
        await answered(page, "Here again.")
    assert all("Failed to load resource" in complaint for complaint in complaints)
    complaints.clear()


async def test_markup_in_question_answer_and_passage_is_only_text(serve: Serve, page: Page) -> None:
    found = msgspec.structs.replace(passage(0, HOSTILE), document_name=HOSTILE)
    answer = [Token(f"{HOSTILE} [ID:0]\n\n```\n{HOSTILE}\n```\n`{HOSTILE}`"), Finish()]
    site = await serve(ScriptedBackend(answer), passages=[found])
    await page.goto(site.link)
    await ask(page, HOSTILE)
    await page.get_by_role("button", name="Source 1").click()
    for shown in (".asked", ".answer p >> nth=0", ".answer pre", ".answer code", ".name", "blockquote"):
        await expect(page.locator(shown)).to_contain_text(HOSTILE)
    assert await page.locator("img, script:not([src])").count() == 0
    assert await page.title() == "ragchat"


async def test_citations_are_numbered_as_they_come_and_open_their_passage(serve: Serve, page: Page) -> None:
    found = [passage(number, f"Passage {number}.") for number in range(3)]
    backend = ScriptedBackend(words("Late [ID:2] and early [ID:0], late again [ID:2], never there [ID:7]."))
    site = await serve(backend, passages=found)
    await page.goto(site.link)
    await ask(page)
    await expect(page.locator(".answer")).to_have_text("Late 1 and early 2, late again 1, never there 3.")
    await expect(page.locator("summary")).to_have_text(["12.md50% match", "20.md50% match"])
    await expect(page.get_by_role("button", name="Source 3")).to_be_disabled()
    await page.get_by_role("button", name="Source 2").focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("Passage 0.")).to_be_visible()
    await expect(page.locator("summary").nth(1)).to_be_focused()
    await expect(page.get_by_text("Passage 2.")).to_be_hidden()


async def test_every_character_arrives(serve: Serve, page: Page) -> None:
    """U+2028 ends a line in JavaScript's regular expressions, but not in an event stream."""
    text = "one\u2028data: two\u2029id: 3\u0085four: 😀 五"
    site = await serve(ScriptedBackend([Token(text), Finish()]))
    await page.goto(site.link)
    await ask(page)
    await expect(page.get_by_role("article")).to_have_attribute("aria-busy", "false")
    assert await page.locator(".answer").text_content() == text


async def test_a_replaced_answer_is_shown_in_place_of_the_old_one(serve: Serve, page: Page) -> None:
    script = [Token("First.\n\nAttempt."), Replace("Second\n\nattempt"), Token(" succeeds."), Finish()]
    site = await serve(ScriptedBackend(script))
    await page.goto(site.link)
    await ask(page)
    await expect(page.locator(".answer p")).to_have_text(["Second", "attempt succeeds."])


async def test_a_conversation_is_one_session_until_a_new_one_is_begun(serve: Serve, page: Page) -> None:
    site = await serve(ScriptedBackend(lambda prompt: words(f"You said {prompt.question}.")))
    await page.goto(site.link)
    for question in ("one", "two"):
        await ask(page, question)
        await answered(page, f"You said {question}.")
    await page.get_by_role("button", name="New conversation").click()
    await expect(page.get_by_role("article")).to_have_count(0)
    await ask(page, "three")
    await answered(page, "You said three.")
    sessions = [run.session_id for run in await runs(site)]
    assert sessions[0] == sessions[1] != sessions[2]


@pytest.mark.parametrize("language", ["zh-CN"])
async def test_an_input_method_may_use_enter_for_itself(serve: Serve, page: Page) -> None:
    site = await serve(ScriptedBackend(lambda prompt: words(f"答：{prompt.question}")))
    await page.goto(site.link)
    box = page.get_by_label("您的问题")
    await box.focus()
    keyboard = await page.context.new_cdp_session(page)
    enter = {"type": "rawKeyDown", "key": "Enter", "code": "Enter"}
    await keyboard.send("Input.imeSetComposition", {"text": "jixu", "selectionStart": 4, "selectionEnd": 4})
    await keyboard.send("Input.dispatchKeyEvent", {**enter, "windowsVirtualKeyCode": 13})
    await keyboard.send("Input.insertText", {"text": "怎样继续？"})
    await keyboard.send("Input.dispatchKeyEvent", {**enter, "windowsVirtualKeyCode": 229})  # as Safari does
    await expect(box).to_have_value("怎样继续？")
    await expect(page.get_by_role("article")).to_have_count(0)
    await page.keyboard.press("Enter")
    await answered(page, "答：怎样继续？")
    await expect(page.get_by_role("button", name="提问")).to_be_visible()


async def test_shift_and_enter_begin_a_new_line(serve: Serve, page: Page) -> None:
    site = await serve(ScriptedBackend(words("Yes.")))
    await page.goto(site.link)
    await expect(page.get_by_label("Your question")).to_be_focused()
    await page.keyboard.type("one")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("two")
    await page.keyboard.press("Enter")
    await expect(page.locator(".asked")).to_have_text("one\ntwo")
    await expect(page.get_by_label("Your question")).to_have_value("")


async def test_the_page_works_under_a_prefix(serve: Serve, page: Page) -> None:
    backend, _ = gated()
    site = await serve(backend, prefix="/help/chat")
    await page.goto(site.link)
    await ask(page)
    await expect(page.locator(".answer")).to_have_text("the first half")
    await page.get_by_role("button", name="Stop").click()
    await expect(page.get_by_role("button", name="Ask")).to_be_visible()
    assert [run.finish_reason for run in await runs(site)] == ["cancelled"]


async def test_the_page_follows_the_end_only_while_its_reader_is_there(serve: Serve, page: Page) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    lines = Token("line\n\n" * 40)
    site = await serve(ScriptedBackend([lines, gates[0], lines, gates[1], lines, Finish()]))
    await page.goto(site.link)
    await ask(page)
    lines_shown = page.locator(".answer p")
    await expect(lines_shown).to_have_count(40)
    await expect(lines_shown.last).to_be_in_viewport()
    gates[0].set()
    await expect(lines_shown).to_have_count(80)
    await expect(lines_shown.last).to_be_in_viewport()
    await page.mouse.move(400, 300)
    await page.mouse.wheel(0, -500)
    await expect(lines_shown.last).not_to_be_in_viewport()
    top = await page.evaluate("scrollY")
    gates[1].set()
    await expect(lines_shown).to_have_count(120)
    assert await page.evaluate("scrollY") == top


async def test_white_space_is_no_question_and_leaves_the_box_as_it_was(serve: Serve, page: Page) -> None:
    site = await serve(ScriptedBackend(words("Yes.")))
    await page.goto(site.link)
    box = page.get_by_label("Your question")
    empty = await box.bounding_box()
    await box.fill(" \n \n ")
    await page.get_by_role("button", name="Ask").click()
    await expect(box).to_have_value("")
    assert await box.bounding_box() == empty
    await expect(page.get_by_role("article")).to_have_count(0)


async def test_a_question_that_is_refused_for_good_is_not_offered_again(
    serve: Serve, page: Page, complaints: list[str]
) -> None:
    site = await serve(ScriptedBackend(words("Yes.")))
    await page.goto(site.link)
    await ask(page, "?" * 32_001)
    await expect(page.locator(".failure")).to_contain_text("32")
    await expect(page.get_by_role("button", name="Try again")).to_be_hidden()
    assert len(complaints) == 1
    assert "413" in complaints.pop()


async def test_another_tab_shares_the_token_and_not_the_conversation(serve: Serve, page: Page) -> None:
    site = await serve(ScriptedBackend(words("Yes.")))
    await page.goto(site.link)
    await ask(page)
    await answered(page, "Yes.")
    other = await page.context.new_page()
    await other.goto(site.url)
    await expect(other.get_by_role("article")).to_have_count(0)
    await ask(other)
    await answered(other, "Yes.")
    first, second = await runs(site)
    assert first.session_id != second.session_id


async def test_a_new_token_clears_the_conversation_in_every_tab(serve: Serve, page: Page) -> None:
    backend, gate = gated()
    site = await serve(backend)
    gate.set()
    await page.goto(site.link)
    await ask(page)
    await answered(page, "the first half and the second.")
    other = await page.context.new_page()
    await other.goto(f"{site.url}#token={await create_token(site.ragchat.database, 'other')}")
    await expect(page.get_by_role("article")).to_have_count(0)
    await page.reload()
    await expect(page.get_by_role("article")).to_have_count(0)
    await ask(page)
    await answered(page, "the first half and the second.")
    first, second = await runs(site)
    assert first.session_id != second.session_id


async def test_a_conversation_that_the_server_has_lost_is_begun_anew(
    serve: Serve, page: Page, complaints: list[str]
) -> None:
    site = await serve(ScriptedBackend(lambda prompt: words(f"You said {prompt.question}.")))
    await page.goto(site.link)
    await ask(page, "one")
    await answered(page, "You said one.")
    await site.ragchat.database.run(lambda: Session.all().delete())
    await ask(page, "two")
    await answered(page, "You said two.")
    await expect(page.locator(".asked")).to_have_text(["two"])
    note = "The earlier conversation is not available any more; a new one was begun."
    await expect(page.locator(".note")).to_have_text(note)
    await expect(page.locator("body")).not_to_contain_text("session_id")
    await ask(page, "three")
    await answered(page, "You said three.")
    await expect(page.locator(".asked")).to_have_text(["two", "three"])
    assert len(complaints) == 1
    assert "404" in complaints.pop()


async def test_a_host_that_knows_nobody_is_quoted(serve: Serve, page: Page, complaints: list[str]) -> None:
    async def nobody(_: Request | Websocket) -> None:
        return None

    site = await serve(ScriptedBackend(words("Never.")), identify=nobody)
    await page.goto(site.url)
    await ask(page)
    await expect(page.get_by_role("dialog")).to_contain_text("You are not signed in. Sign in and try again.")
    await expect(page.get_by_role("dialog")).not_to_contain_text("ragchat token create")
    assert len(complaints) == 1
    assert "401" in complaints.pop()


@pytest.mark.parametrize("language", ["zh-CN"])
async def test_refusals_are_chinese_where_the_page_is(serve: Serve, page: Page, complaints: list[str]) -> None:
    site = await serve(ScriptedBackend(words("好。")))
    await page.goto(f"{site.url}#token=ragchat-wrong")
    await page.get_by_label("您的问题").fill("？" * 32_001)
    await page.keyboard.press("Enter")
    await expect(page.locator("#sign-in-more")).to_have_text("令牌无效、已过期或已被撤销。请输入另一个令牌。")
    await page.get_by_label("令牌").fill(site.token)
    await page.keyboard.press("Enter")
    await expect(page.locator(".failure span")).to_have_text("问题太长。请缩短后重新提问。")
    assert ["401" in complaints[0], "413" in complaints[1]] == [True, True]
    complaints.clear()


async def test_what_is_typed_and_not_sent_survives_a_reload(serve: Serve, page: Page) -> None:
    site = await serve(ScriptedBackend(words("Yes.")))
    await page.goto(site.link)
    box = page.get_by_label("Your question")
    await box.fill("Half a ques")
    await page.reload()
    await expect(box).to_have_value("Half a ques")
    await page.keyboard.press("Enter")
    await answered(page, "Yes.")
    await page.reload()
    await expect(box).to_have_value("")


async def test_a_table_is_drawn_as_one_with_its_citations(serve: Serve, page: Page) -> None:
    table = "| Name | Size |\n|:---|---:|\n| `a` [ID:0] | 1 \\| 2 |\n| <b>b</b> | |"
    text = f"Sizes:\n{table}\nThat is all.\n\n| no table"
    script = [*map(Token, text), Finish()]
    site = await serve(ScriptedBackend(script), passages=[passage(0)])
    await page.goto(site.link)
    await ask(page)
    await expect(page.locator(".answer > *")).to_have_count(4)
    await expect(page.locator(".answer th")).to_have_text(["Name", "Size"])
    await expect(page.locator(".answer td")).to_have_text(["a 1", "1 | 2", "<b>b</b>", ""])
    await expect(page.locator(".answer > p")).to_have_text(["Sizes:", "That is all.", "| no table"])
    await page.get_by_role("table").get_by_role("button", name="Source 1").click()
    await expect(page.get_by_text("A passage.")).to_be_visible()


async def test_a_source_is_titled_by_the_headings_it_stands_under(serve: Serve, page: Page) -> None:
    found = [passage(0, "Install > On Linux\n\nUnpack it."), passage(1, "No heading here.\n\nJust text.")]
    site = await serve(ScriptedBackend(words("Both [ID:0] [ID:1].")), passages=found)
    await page.goto(site.link)
    await ask(page)
    await expect(page.locator(".headings")).to_have_text(["Install > On Linux", ""])
    await page.get_by_role("button", name="Source 1").click()
    await expect(page.locator("blockquote")).to_have_text(["Unpack it.", "No heading here.Just text."])
