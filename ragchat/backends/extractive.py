"""The built-in answerer: the sentences of the passages that fit the question best, word for word.

It needs no model and no other server, always answers the same, and never says what no document says.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from itertools import groupby
from typing import Final, Literal

import msgspec

from ragchat.backends.contract import Finish, Piece, Prompt
from ragchat.events import Passage, Token
from ragchat.rag.analyse import CJK, analyse
from ragchat.rag.question import is_chinese, telling, weigh
from ragchat.rag.split import sentences

NOTHING_FOUND: Final = "I found nothing about this in the documents."
NOTHING_FOUND_CHINESE: Final = "在文档中没有找到相关的内容。"

_MAX_UNITS: Final = 4
_MAX_STEPS: Final = 8
"""Sentences, list items and code blocks of an answer; of one that shows how something is done."""

_WORTH: Final = 0.45
"""A further sentence must be worth this part of the best one."""

_KNOWN: Final = 0.4
"""What a term of the question is worth in a further sentence when an earlier one has it already."""

_SECTION: Final = 0.95
"""What a term is worth that only the heading of a sentence's section has: all of the section is about it."""

_CONTEXT: Final = 0.5
"""What a term is worth that only a heading further up has, or the name of the document."""

_NEIGHBOUR: Final = 0.3
"""What a term is worth that only the sentence before has, which a pronoun may stand for."""

_RANK_FADING: Final = 0.9

Kind = Literal["heading", "prose", "item", "row", "code"]


class ExtractiveBackend:
    """Answers with sentences of the passages; a citation follows what comes from one passage in a row.

    ``answer`` never fails.
    """

    name = "extractive"
    continuation: Literal["replay"] = "replay"

    async def answer(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """Yield the answer word by word. The same prompt always gives the same pieces."""
        for word in _WORDS.findall(compose(prompt)):
            yield Token(word)
            await asyncio.sleep(0)  # an answer that is ready at once still leaves others their turn
        yield Finish()

    async def check(self) -> str:
        """One line on what answers."""
        return "extractive: the best sentences of the documents, without a model"

    async def close(self) -> None:
        """Nothing is held."""


_WORDS: Final = re.compile(rf"\s*(?:[{CJK}]|[^\s{CJK}]+)|\s+")


def compose(prompt: Prompt) -> str:
    """The whole answer to a prompt."""
    earlier = [turn.content for turn in prompt.turns[:-1] if turn.role == "user"]
    units = [unit for number, passage in enumerate(prompt.passages) for unit in _units(number, passage)]
    how_to = bool(_HOW_TO.search(prompt.question))
    for before in ([], earlier):  # what was asked before counts only where the question itself finds no sentence
        scores = _Scores(weigh(prompt.question, before), units, prompt.passages)
        if chosen := _choose(units, scores, how_to=how_to):
            return _write([units[index] for index in chosen])
    return NOTHING_FOUND_CHINESE if is_chinese(prompt.question) else NOTHING_FOUND


_HOW_TO: Final = re.compile(
    r"\bhow\s+(?:do|does|can|could|should|to|would|must|is|are)\b|\b(?:steps|set\s*up|configure|install)\b"
    r"|如何|怎么|怎样|步骤",
    re.IGNORECASE,
)


class _Unit(msgspec.Struct, frozen=True):
    """What is quoted as a whole: a sentence, a list item, a table row, a block of code. Headings are not.

    ``section`` has the terms of the innermost heading, ``heading`` those of all; ``above`` is the heading of code,
    and the head of the table that a row is in.
    """

    passage: int
    kind: Kind
    text: str
    terms: frozenset[str]
    section: frozenset[str]
    heading: frozenset[str]
    above: str = ""


_PARTS: Final = re.compile(
    r"^[ \t]*(?P<fence>```|~~~)[^\n]*\n.*?(?:^[ \t]*(?P=fence)[ \t]*$|\Z)"
    r"|^(?P<level>\#{1,6})[ \t]+(?P<heading>[^\n]+)$"
    r"|^[ \t]*(?P<item>(?:[-*+]|\d{1,3}[.)])[ \t]+[^\n]+(?:\n[ \t]+(?![-*+]|\d{1,3}[.)])[^\n]+)*)[ \t]*$"
    r"|^[ \t]*(?P<table>\|[^\n]*(?:\n[ \t]*\|[^\n]*)*)"
    r"|(?P<prose>[^\n]+(?:\n(?![ \t]*(?:```|~~~|\#{1,6}[ \t]|[-*+][ \t]|\d{1,3}[.)][ \t]|\|))[^\n]*\S[^\n]*)*)",
    re.MULTILINE | re.DOTALL,
)
_TITLE: Final = re.compile(r"[^.。!！?？:：;；,，]{1,120}\Z")
_PATH: Final = re.compile(r"[^\n]{1,240}(?<![.。!！;；:：,，\s])\Z")
"""The headings that a passage may begin with, on a line of their own."""

_RULE: Final = re.compile(r"[\s|:=*_-]*\Z")
_TABLE_HEAD: Final = re.compile(r"([^\n]+\n[ \t]*\|[ \t:|-]*-[ \t:|-]*)(?:\n|\Z)")


def _units(number: int, passage: Passage) -> Iterator[_Unit]:
    above: list[tuple[int, frozenset[str]]] = [(0, frozenset(analyse(passage.document_name)))]
    title, section = "", frozenset[str]()
    for part in _PARTS.finditer(passage.content):
        kind, texts, head = _part(part)
        for text in texts:
            if _RULE.match(text):
                continue
            terms = frozenset(analyse(text))
            if kind == "heading":
                level, title = len(part["level"] or ""), text.rpartition(" > ")[2]
                section = frozenset(analyse(title))
                above = [heading for heading in above if heading[0] < level or not level] + [(level, terms)]
            heading = frozenset().union(*(terms for _, terms in above))
            yield _Unit(number, kind, text, terms, section, heading, title if kind == "code" else head)


def _part(part: re.Match[str]) -> tuple[Kind, list[str], str]:
    """What a part of a passage is, the texts that it is cut into, and the head that belongs to each of them."""
    if part["fence"]:
        return "code", [part[0]], ""
    if part["heading"]:
        return "heading", [part["heading"]], ""
    if part["item"]:
        return "item", [part["item"].rstrip()], ""
    if part["table"]:
        head = _TABLE_HEAD.match(part["table"])
        rows = part["table"][head.end() :] if head else part["table"]
        return "row", rows.splitlines(), head[1] if head else ""
    prose = part["prose"].strip()
    last, title = part.end() == len(part.string), _TITLE if part.start() else _PATH
    if "\n" not in prose and not last and title.match(prose):
        return "heading", [prose], ""
    return "prose", [_on_one_line(prose[start:end]) for start, end in sentences(prose)], ""


def _on_one_line(sentence: str) -> str:
    return _LINE_END.sub(" ", _LINE_END_IN_CJK.sub("", sentence))


_LINE_END: Final = re.compile(r"\s*\n\s*")
_LINE_END_IN_CJK: Final = re.compile(rf"(?<=[{CJK}，。；：、])\s*\n\s*(?=[{CJK}])")


class _Scores:
    """How well each unit fits the question: the weight of the question's terms in it and around it."""

    def __init__(self, question: dict[str, float], units: Sequence[_Unit], passages: Sequence[Passage]) -> None:
        found = Counter(term for unit in units for term in unit.terms if term in question)
        self._weights = {
            term: weight * telling(term) * math.log(1 + len(units) / (found[term] or 1))
            for term, weight in question.items()
        }
        best = max((passage.similarity for passage in passages), default=0.0) or 1.0
        self._prior = [
            _RANK_FADING**rank * (passage.similarity / best or 1.0) for rank, passage in enumerate(passages)
        ]
        self._units = units

    def of(self, index: int, known: frozenset[str] = frozenset()) -> float:
        """The worth of a unit beside others that have said ``known``; 0 when it shares nothing telling."""
        unit = self._units[index]
        if unit.kind == "heading":
            return 0.0
        before = self._units[index - 1] if index else None
        nearby = before.terms if before and before.passage == unit.passage else frozenset()
        places = (
            (1.0, unit.terms), (_SECTION, unit.section), (_CONTEXT, unit.heading), (_NEIGHBOUR, nearby)
        )  # fmt: skip
        worth = 0.0
        for term, weight in self._weights.items():
            share = next((share for share, terms in places if term in terms), 0.0)
            worth += weight * share * (_KNOWN if term in known else 1.0)
        return worth * self._prior[unit.passage]

    def asked(self, terms: frozenset[str]) -> float:
        """What those of the question's terms weigh that are among ``terms``."""
        return sum(weight for term, weight in self._weights.items() if term in terms)


def _choose(units: Sequence[_Unit], scores: _Scores, *, how_to: bool) -> list[int]:
    """The units of the answer, in the order in which they are read."""
    worth = {index: scores.of(index) for index in range(len(units))}
    best = max(worth, key=lambda index: (worth[index], -index), default=-1)
    if best < 0 or not worth[best]:
        return []
    speaks = scores.asked(units[best].section) >= scores.asked(units[best].terms)
    chosen = _steps(units, best, scores) if how_to or speaks else [best, *_what_follows(units, best)]
    while len(chosen) < _MAX_UNITS:
        known = frozenset(term for index in chosen for term in units[index].terms)
        said = {units[index].text for index in chosen}
        rest = {
            i: scores.of(i, known)
            for i in worth
            if units[i].kind != "code" and i not in chosen and units[i].text not in said
        }
        further = max(rest, key=lambda index: (rest[index], -index), default=-1)
        if further < 0 or rest[further] < _WORTH * worth[best]:
            break
        chosen += [further, *(i for i in _what_follows(units, further) if i not in chosen)]
    first = units[best].passage
    last = max(index for index in chosen if units[index].passage == first)
    chosen += [index for index in _what_follows(units, last) if index not in chosen]
    return sorted(chosen, key=lambda index: (units[index].passage != first, index))


def _what_follows(units: Sequence[_Unit], start: int) -> list[int]:
    """The list, table or code that a sentence introduces, or else the next sentence."""
    following: list[int] = []
    if units[start].text.endswith((":", "：")):
        for index in range(start + 1, min(len(units), start + _MAX_STEPS)):
            prose = units[index].kind in {"prose", "heading"}
            if units[index].passage != units[start].passage or (prose and following):
                break
            following.append(index)
            if prose:
                break
    return following


def _steps(units: Sequence[_Unit], best: int, scores: _Scores) -> list[int]:
    """The section around ``best``, if its heading speaks of what is asked; else what follows in it."""
    first = last = best
    while first and _same_section(units[first - 1], units[best]):
        first -= 1
    while last + 1 < len(units) and _same_section(units[last + 1], units[best]):
        last += 1
    if not scores.asked(units[best].section):
        return list(range(best, min(last + 1, best + _MAX_UNITS)))
    if last - first < _MAX_STEPS:
        return list(range(first, last + 1))
    return list(range(best, min(last + 1, best + _MAX_STEPS)))


def _same_section(unit: _Unit, other: _Unit) -> bool:
    return unit.kind != "heading" and (unit.passage, unit.heading) == (other.passage, other.heading)


def _write(units: Sequence[_Unit]) -> str:
    """The units as Markdown, with one citation at the end of what comes from one passage in a row."""
    text = ""
    for number, run in groupby(units, key=lambda unit: unit.passage):
        quoted = _quote(list(run), f"[ID:{number}]")
        text += (" " if text and "\n" not in text + quoted else "\n\n" if text else "") + quoted
    return text


def _quote(units: list[_Unit], citation: str) -> str:
    cited = max((index for index, unit in enumerate(units) if unit.kind != "code"), default=-1)
    lines = "" if cited >= 0 else f"{units[0].above} {citation}".lstrip()
    before: _Unit | None = None
    for index, unit in enumerate(units):
        lines += _gap(before, unit) if lines else ""
        if unit.kind == "row" and unit.above and not (before and before.above == unit.above):
            lines += f"{unit.above}\n"
        lines += _cite(unit, citation) if index == cited else unit.text
        before = unit
    return lines


_CJK_END: Final = tuple("。！？；」』）》")


def _gap(before: _Unit | None, unit: _Unit) -> str:
    if before is None or unit.kind == "code" or before.kind == "code":
        return "\n"
    if before.kind == unit.kind:
        return ("" if before.text.endswith(_CJK_END) else " ") if unit.kind == "prose" else "\n"
    return "\n\n" if "prose" in {before.kind, unit.kind} and "row" in {before.kind, unit.kind} else "\n"


def _cite(unit: _Unit, citation: str) -> str:
    if unit.kind == "row":  # behind the last bar Markdown would drop it
        return f"{unit.text.rstrip().removesuffix('|').rstrip()} {citation} |"
    return f"{unit.text} {citation}"
