"""How a text is cut along its own structure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragchat.rag.analyse import count_tokens
from ragchat.rag.split import Piece, Text, sentences, split

GUIDE = """\
# Guide

Welcome.

## Install

Run this:

```sh
# not a heading
pip install it
```

### Upgrade

#### From version one

Remove the old one first.

## Use

Ask.
"""

lines = st.lists(
    st.sampled_from(
        [
            "# One",
            "## Two",
            "text with some words.",
            "中文句子。另一个！",
            "- item",
            "```",
            "",
            "| a | b |",
            "> quote",
            "x" * 90,
        ]
    )
    | st.text(max_size=40),
    max_size=30,
).map("\n".join)


def cut(text: str, limit: int = 100) -> list[Piece]:
    return split(Text(text=text, markdown=True), limit)


def words(count: int) -> str:
    return " ".join(f"w{number}" for number in range(count))


@given(lines, st.booleans(), st.integers(1, 40))
def test_nothing_is_lost_and_positions_tell_where_it_was(text: str, markdown: bool, limit: int) -> None:
    covered = [character.isspace() for character in text]
    pieces = split(Text(text=text, markdown=markdown), limit)
    for piece in pieces:
        assert text[piece.start : piece.end].endswith(piece.text)
        assert piece.text == piece.text.strip()
        covered[piece.start : piece.end] = [True] * (piece.end - piece.start)
    assert all(covered)
    assert [piece.start for piece in pieces] == sorted(piece.start for piece in pieces)


@given(lines, st.booleans(), st.integers(1, 40))
def test_no_piece_is_larger_than_the_limit(text: str, markdown: bool, limit: int) -> None:
    assert all(count_tokens(piece.text) <= limit for piece in split(Text(text=text, markdown=markdown), limit))


def test_every_section_is_a_piece_under_the_path_of_its_headings() -> None:
    assert [(piece.headings, piece.text.splitlines()[0]) for piece in cut(GUIDE)] == [
        (("Guide",), "Welcome."),
        (("Guide", "Install"), "Run this:"),
        (("Guide", "Install", "Upgrade", "From version one"), "Remove the old one first."),
        (("Guide", "Use"), "Ask."),
    ]


def test_headings_without_text_between_stay_with_the_text_below() -> None:
    upgrade = cut(GUIDE)[2]
    assert GUIDE[upgrade.start : upgrade.end] == (
        "### Upgrade\n\n#### From version one\n\nRemove the old one first."
    )


def test_the_path_is_part_of_what_is_indexed_and_shown() -> None:
    assert cut(GUIDE)[2].content == "Guide > Install > Upgrade > From version one\n\nRemove the old one first."
    assert cut("No heading.")[0].content == "No heading."


def test_a_long_section_repeats_its_heading_in_the_path() -> None:
    pieces = cut(f"# Long\n\n{words(60)}\n\n{words(60)}")
    assert [piece.headings for piece in pieces] == [("Long",), ("Long",)]


def test_code_is_not_read_as_headings_and_not_cut_when_it_fits() -> None:
    install = cut(GUIDE)[1]
    assert "```sh\n# not a heading\npip install it\n```" in install.text


def test_paragraphs_stay_whole_when_they_fit() -> None:
    first, second = words(60), words(70)
    assert [piece.text for piece in cut(f"{first}\n\n{second}")] == [first, second]


def test_a_long_paragraph_is_cut_at_sentences_and_repeats_the_last_short_one() -> None:
    long_one = f"{words(55)}. "
    pieces = cut(f"{long_one}Short it is. {long_one.capitalize()}{long_one.capitalize()}".strip())
    assert pieces[1].text.startswith("Short it is. W0")
    assert pieces[0].end > pieces[1].start


def test_a_long_list_is_cut_between_its_lines() -> None:
    pieces = cut("\n".join(f"- item {number} of the list" for number in range(40)))
    assert [piece.text.splitlines()[0] for piece in pieces] == ["- item 0 of the list", "- item 20 of the list"]


def test_what_stands_before_the_first_block_is_not_lost() -> None:
    assert cut("[link]: http://example.org\n\nText with a [link].")[0].text.startswith("[link]: ")


def test_chinese_is_cut_at_its_own_full_stops() -> None:
    sentence = "这是一个很长的句子用来测试切分。"
    pieces = cut(sentence * 20, 64)
    assert all(piece.text.endswith("。") for piece in pieces)


def test_text_without_words_is_cut_too() -> None:
    assert max(len(piece.text) for piece in cut("." * 100_000)) <= 100 * 16


def test_every_page_that_a_piece_touches_is_named() -> None:
    text = Text(text="First page.\n\nSecond page.\n\n", pages=(0, 13))
    assert split(text, 100)[0].positions == ((1, 0, 13), (2, 13, 25))
    assert [piece.positions for piece in split(text, 2)] == [((1, 0, 11),), ((2, 13, 25),)]
    assert cut("No pages.")[0].positions == ((0, 0, 9),)


def test_sentences_end_where_a_reader_sees_the_end() -> None:
    text = 'Dr. Li paid 3.5 dollars! "Really?" he said. 中文。还有“引用。”第三；end'
    assert [text[start:end] for start, end in sentences(text)] == [
        "Dr. Li paid 3.5 dollars!", '"Really?" he said.', "中文。", "还有“引用。”", "第三；", "end",
    ]  # fmt: skip


def test_a_sentence_does_not_end_within_code_or_at_an_ellipsis_that_goes_on() -> None:
    text = "Call `f(x=…)  # why? Because.` at once. Numbered 1, 2 … without gaps. 他走了……再见。"
    assert [text[start:end] for start, end in sentences(text)] == [
        "Call `f(x=…)  # why? Because.` at once.", "Numbered 1, 2 … without gaps.", "他走了……", "再见。",
    ]  # fmt: skip


@given(st.text())
def test_sentences_never_lose_a_character(text: str) -> None:
    covered = [character.isspace() for character in text]
    for start, end in sentences(text):
        covered[start:end] = [True] * (end - start)
    assert all(covered)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("drawing", ["." * 200_000 + "a", "…" * 200_000 + "a", "`" * 200_001, "a `b.` " * 50_000])
def test_what_is_drawn_with_marks_takes_no_quadratic_time(drawing: str) -> None:
    """Quadratic would be hours; the limit only keeps a failure short."""
    assert sentences(drawing)[-1][1] == len(drawing.rstrip())
