"""What a question asks for."""

from __future__ import annotations

import pytest

from ragchat.rag.question import goes_on, is_chinese, says_little, telling, weigh


def test_a_word_that_is_said_twice_weighs_twice() -> None:
    assert weigh("river bank, river mouth, river bed") == {"river": 3.0, "bank": 1.0, "mouth": 1.0, "bed": 1.0}


@pytest.mark.parametrize(
    "question",
    [
        "and in winter?", "What about PDF?", "in winter?", "Why?", "How big is it?", "Where do they live?",
        "那冬天呢？", "它有多大？", "企鹅呢？", "为什么？",
    ],
)  # fmt: skip
def test_a_question_that_goes_on_from_the_one_before_is_seen(question: str) -> None:
    assert goes_on(question)


@pytest.mark.parametrize(
    "question",
    [
        "When were penguins first described?", "How do I use my own model?", "What is a token?",
        "Is there a limit?", "Is it possible to use PostgreSQL?", "支持哪些模型？", "怎样创建令牌?",
        "What happens to an answer when the connection that carries it breaks?",
    ],
)  # fmt: skip
def test_a_question_of_its_own_is_no_follow_up(question: str) -> None:
    assert not goes_on(question)


def test_few_or_general_words_say_little() -> None:
    assert says_little("Where exactly?")
    assert not says_little("Is Windows supported on laptops?")


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
    assert telling("what") < telling("add") < telling("penguin")


@pytest.mark.parametrize(
    ("text", "chinese"), [("你好吗", True), ("what is 检索?", True), ("hello", False), ("日本語です", False)]
)
def test_chinese_is_told_from_japanese_and_english(text: str, chinese: bool) -> None:
    assert is_chinese(text) is chinese
