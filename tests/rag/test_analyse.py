"""What two texts must share to be about the same thing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragchat.rag.analyse import MAX_TERM, analyse, count_tokens


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("检索增强", ["检索", "索增", "增强"]),
        ("茶", ["茶"]),
        ("こんにちは", ["こん", "んに", "にち", "ちは"]),
        ("한국어", ["한국", "국어"]),
        ("用 GPU 加速", ["用", "gpu", "加速"]),
        ("continued continuing", ["continu", "continu"]),
        ("Newton's and Newton\u2019s", ["newton", "and", "newton"]),
        ("Last-Event-ID, last_event_id", ["last", "event", "id", "last", "event", "id"]),
        ("Ｆｕｌｌ width Café", ["full", "width", "cafe"]),
        ("1,190 questions in 2026", ["1190", "question", "in", "2026"]),
        ("24次", ["24", "次"]),
        ("", []),
        ("?! -- 。", []),
    ],
)
def test_text_becomes_terms(text: str, terms: list[str]) -> None:
    assert analyse(text) == terms


@given(st.text())
def test_never_raises_and_gives_nothing_that_an_index_could_take_for_syntax(text: str) -> None:
    for term in analyse(text):
        assert 0 < len(term) <= MAX_TERM
        assert not any(character.isspace() for character in term)
        assert all(character.isalnum() for character in term if character.isascii())


@given(st.text(), st.text())
def test_terms_do_not_depend_on_what_stands_in_another_line(first: str, second: str) -> None:
    assert analyse(f"{first}\n\n{second}") == analyse(first) + analyse(second)


def test_threads_may_analyse_at_once() -> None:
    words = [f"{stem}{ending}" for stem in ("walk", "jump", "learn") for ending in ("s", "ed", "ing")] * 200
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(analyse, words))
    assert {term for terms in results for term in terms} == {"walk", "jump", "learn"}


def test_a_token_is_a_word_or_a_character() -> None:
    assert count_tokens("three short words") == 3
    assert count_tokens("四个汉字") == 4
    assert count_tokens("用 GPU 加速!") == 4
