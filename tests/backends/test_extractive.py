"""The built-in answerer: the sentences that fit best, each with its citation."""

from __future__ import annotations

import asyncio

import pytest

from ragchat.backends.contract import Finish, Prompt, Turn
from ragchat.backends.extractive import NOTHING_FOUND, NOTHING_FOUND_CHINESE, ExtractiveBackend, compose
from ragchat.events import Passage, Token
from tests.fakes.backend import passage

RIVERS = passage(
    0,
    "Rivers carry water. The Rhine rises in Switzerland. It is 1,233 km long. Many towns lie on its banks.",
)
LAKES = passage(1, "Lakes hold water. Lake Constance is fed by the Rhine. It has three countries around it.")

GUIDE = passage(
    0,
    """Manual

## Continue an interrupted answer

Send the last id that arrived:

```sh
curl -H 'Last-Event-ID: 7' /answer
```

The stream goes on behind it.

## Limits

- At most 500 answers at once.
- Questions may have
  32,000 characters.

| setting | default |
|---|---|
| port | 8000 |
""",
)


def ask(question: str, *passages: Passage, history: tuple[Turn, ...] = ()) -> str:
    turns = (Turn("system", "ignored"), *history, Turn("user", question))
    return compose(Prompt(question=question, turns=turns, passages=passages))


def test_the_sentence_that_fits_is_quoted_with_its_passage() -> None:
    assert ask("Where does the Rhine rise?", LAKES, RIVERS) == "The Rhine rises in Switzerland. [ID:1]"


def test_sentences_that_add_something_follow() -> None:
    answer = ask("Where does the Rhine rise, and which lake is fed by it?", RIVERS, LAKES)
    assert answer == "Lake Constance is fed by the Rhine. [ID:1] The Rhine rises in Switzerland. [ID:0]"


def test_an_answer_has_four_sentences_at_most() -> None:
    names = ["Rhine", "Elbe", "Danube", "Moselle", "Main", "Neckar"]
    many = passage(0, " ".join(f"The {name} is a river." for name in names))
    assert ask(" ".join(names), many).count("is a river.") == 4


def test_the_same_sentence_is_not_said_twice() -> None:
    assert ask("Where does the Rhine rise?", RIVERS, RIVERS).count("The Rhine rises in Switzerland.") == 1


def test_chinese_sentences_are_told_apart() -> None:
    bears = passage(0, "企鹅生活在南半球。北极熊生活在北极！它们以海豹为食。")
    assert ask("北极熊生活在哪里？", bears) == "北极熊生活在北极！ [ID:0]"


def test_chinese_sentences_follow_without_a_space() -> None:
    text = "运行这个命令即可安装。然后打开页面。"
    assert ask("怎样安装?", passage(0, text)) == f"{text} [ID:0]"


def test_what_follows_a_colon_is_never_left_out() -> None:
    text = passage(0, "Bears sleep. They eat two things in the Arctic:\n\nSeals and fish. Foxes do not.")
    assert ask("What do they eat in the Arctic?", text) == (
        "They eat two things in the Arctic: Seals and fish. [ID:0]"
    )


def test_how_to_questions_get_the_steps() -> None:
    assert ask("How do I continue an interrupted answer?", GUIDE) == (
        "Send the last id that arrived:\n"
        "```sh\ncurl -H 'Last-Event-ID: 7' /answer\n```\n"
        "The stream goes on behind it. [ID:0]"
    )


def test_of_a_long_section_the_steps_begin_where_it_fits() -> None:
    steps = "\n".join(f"{number}. Turn the {name} wheel." for number, name in enumerate("abcdefghijkl", 1))
    answer = ask("How do I turn the d wheel of the machine?", passage(0, f"Manual\n\n# The machine\n\n{steps}"))
    assert answer.startswith("4. Turn the d wheel.\n5. ")
    assert answer.count("\n") == 7


def test_without_a_heading_that_fits_a_how_to_goes_on_for_four_sentences() -> None:
    text = "Turn the wheel. Wait a bit. Pull the lever. Push the button. Go home. Sleep."
    assert ask("How do I turn the wheel?", passage(0, text)) == (
        "Turn the wheel. Wait a bit. Pull the lever. Push the button. [ID:0]"
    )


def test_what_a_sentence_introduces_comes_with_it() -> None:
    answer = ask("last id that arrived", GUIDE)
    assert "curl -H 'Last-Event-ID: 7' /answer" in answer
    assert "goes on" not in answer


def test_code_does_not_follow_for_words_that_it_shares() -> None:
    text = '```json\n{"code": 404, "error": true}\n```\n\nThe error code 409 means busy.'
    assert ask("What does error code 409 mean?", passage(0, text)) == "The error code 409 means busy. [ID:0]"


def test_a_citation_stands_before_code_that_ends_an_answer() -> None:
    steps = passage(0, "Manual > Install\n\nRun this:\n\n```\npip install it\n```")
    assert ask("How do I install it?", steps) == "Run this: [ID:0]\n```\npip install it\n```"
    bare = passage(0, "Manual > Install\n\n```\npip install it\n```")
    assert ask("How do I install it?", bare) == "Install [ID:0]\n```\npip install it\n```"


def test_a_table_is_quoted_under_its_head_and_cited_once() -> None:
    table = "| what | default |\n|---|---|\n| runs | 500 |\n| characters | 32000 |"
    answer = table.removesuffix(" |") + " [ID:0] |"
    assert ask("What are the limits?", passage(0, f"Manual > Limits\n\n{table}")) == answer


def test_a_section_whose_heading_is_asked_for_comes_before_words_in_passing() -> None:
    limits = passage(0, "Manual > Limits\n\nAt most 500 runs.")
    proxies = passage(1, "Manual > Proxies\n\nIdle limits are not reached.")
    assert ask("What are the limits?", limits, proxies).startswith("At most 500 runs. [ID:0]")


def test_a_new_question_is_not_answered_with_the_answer_before() -> None:
    history = (Turn("user", "Where does the Rhine rise?"), Turn("assistant", "In Switzerland."))
    assert ask("What do lakes hold?", RIVERS, LAKES, history=history) == "Lakes hold water. [ID:1]"


def test_list_items_and_table_rows_are_quoted_whole() -> None:
    assert ask("What is the maximum of characters in questions?", GUIDE) == (
        "- Questions may have\n  32,000 characters. [ID:0]"
    )
    assert ask("port", GUIDE) == "| setting | default |\n|---|---|\n| port | 8000 [ID:0] |"


def test_a_heading_is_never_the_answer() -> None:
    assert not ask("Limits", GUIDE).startswith(("Limits", "## Limits"))


def test_lines_that_were_wrapped_are_joined() -> None:
    wrapped = passage(0, "First.\nThe Rhine rises\nin Switzerland.\n莱茵河发源于\n瑞士。")
    assert ask("Where does the Rhine rise?", wrapped) == "The Rhine rises in Switzerland. [ID:0]"
    assert ask("莱茵河发源于哪里？", wrapped) == "莱茵河发源于瑞士。 [ID:0]"


def test_a_follow_up_is_understood_from_the_questions_before() -> None:
    history = (Turn("user", "Where does the Rhine rise?"), Turn("assistant", "In Switzerland."))
    assert ask("Where exactly?", RIVERS, history=history) == "The Rhine rises in Switzerland. [ID:0]"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("asdkjh qwe", NOTHING_FOUND),
        ("What is it?", NOTHING_FOUND),
        ("", NOTHING_FOUND),
        ("火星有多大？", NOTHING_FOUND_CHINESE),
    ],
)
def test_it_says_when_nothing_fits_in_the_language_of_the_question(question: str, answer: str) -> None:
    assert ask(question, RIVERS, LAKES) == answer
    assert ask(question) == answer


async def pieces(question: str, *passages: Passage) -> list[object]:
    prompt = Prompt(question=question, turns=(), passages=passages)
    return [piece async for piece in ExtractiveBackend().answer(prompt)]


async def test_the_answer_is_streamed_word_by_word() -> None:
    assert await pieces("Where does the Rhine rise?", RIVERS) == [
        *(Token(word) for word in ("The", " Rhine", " rises", " in", " Switzerland.", " [ID:0]")),
        Finish("stop"),
    ]
    chinese = await pieces("企鹅", passage(0, "企鹅不会飞。"))
    assert chinese[:3] == [Token("企"), Token("鹅"), Token("不")]


async def test_the_tokens_are_the_whole_answer_and_always_the_same() -> None:
    question = "How do I continue an interrupted answer?"
    first, second = await pieces(question, GUIDE), await pieces(question, GUIDE)
    assert first == second
    assert "".join(piece.data for piece in first if isinstance(piece, Token)) == ask(question, GUIDE)
    assert ExtractiveBackend.continuation == "replay"


async def test_others_get_their_turn_while_it_answers() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    answered = await pieces("Where does the Rhine rise?", RIVERS)
    task.cancel()
    assert turns >= len(answered) - 1


async def test_it_is_always_there() -> None:
    backend = ExtractiveBackend()
    assert (await backend.check()).startswith("extractive")
    await backend.close()
