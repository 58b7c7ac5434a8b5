"""What a model is told."""

from __future__ import annotations

from ragchat.backends.contract import Turn
from ragchat.rag.prompt import DEFAULT_SYSTEM, build_turns
from tests.fakes.backend import passage


def test_passages_are_numbered_as_they_are_cited() -> None:
    system, question = build_turns("Read:\n{knowledge}\nEnd.", [passage(0, "One."), passage(1, "Two.")], [], "Q?")
    assert system == Turn("system", "Read:\n[ID:0] (from: 0.md)\nOne.\n\n[ID:1] (from: 1.md)\nTwo.\nEnd.")
    assert question == Turn("user", "Q?")


def test_history_comes_between_in_its_order() -> None:
    history = [Turn("user", "A?"), Turn("assistant", "A.")]
    assert build_turns("", [], history, "B?")[1:] == (*history, Turn("user", "B?"))


def test_an_empty_prompt_is_the_default_one() -> None:
    system = build_turns("  ", [passage(0, "One.")], [], "Q?")[0].content
    assert system == DEFAULT_SYSTEM.strip().replace("{knowledge}", "[ID:0] (from: 0.md)\nOne.") + "\n"


def test_a_prompt_without_a_place_gets_the_passages_at_its_end() -> None:
    assert build_turns("Be brief.", [passage(0, "One.")], [], "Q?")[0].content == (
        "Be brief.\n\n[ID:0] (from: 0.md)\nOne."
    )


def test_braces_of_prompts_documents_and_users_are_only_text() -> None:
    nasty = "{0} {knowledge} {question!r} %s"
    turns = build_turns('Say {"json": {}} {knowledge}', [passage(0, nasty)], [], nasty)
    assert turns[0].content == f'Say {{"json": {{}}}} [ID:0] (from: 0.md)\n{nasty}'
    assert turns[1].content == nasty


def test_a_model_is_told_when_nothing_was_found() -> None:
    assert build_turns("{knowledge}", [], [], "Q?")[0].content == "(Nothing was found.)"
