"""What a question asks for."""

from __future__ import annotations

import pytest

from ragchat.rag.question import is_chinese, telling, weigh


def test_a_word_that_is_said_twice_weighs_twice() -> None:
    assert weigh("river bank, river mouth, river bed") == {"river": 3.0, "bank": 1.0, "mouth": 1.0, "bed": 1.0}


def test_a_full_question_does_not_look_back() -> None:
    assert weigh("When were penguins first described?", ["Where do polar bears live?"]) == weigh(
        "When were penguins first described?"
    )


def test_a_follow_up_borrows_from_the_questions_before_and_the_last_one_counts_most() -> None:
    weights = weigh("and in winter?", ["Who feeds seals?", "Where do polar bears live?"])
    assert weights["winter"] == 1.0
    assert weights["polar"] == weights["bear"] == weights["live"] == 0.4
    assert weights["seal"] == pytest.approx(0.16)
    assert "where" not in weights


def test_questions_long_ago_are_forgotten() -> None:
    assert "penguin" not in weigh("why?", ["Do penguins fly?", "Who feeds seals?", "Where do polar bears live?"])


def test_chinese_follow_ups_borrow_too() -> None:
    assert weigh("冬天呢？", ["企鹅住在哪里？"])["企鹅"] == 0.4


def test_words_that_only_ask_say_little() -> None:
    assert telling("what") == telling("什么") < telling("的首") < telling("penguin") == telling("企鹅") == 1.0


@pytest.mark.parametrize(
    ("text", "chinese"), [("你好吗", True), ("what is 检索?", True), ("hello", False), ("日本語です", False)]
)
def test_chinese_is_told_from_japanese_and_english(text: str, chinese: bool) -> None:
    assert is_chinese(text) is chinese
