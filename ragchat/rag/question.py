"""What a question asks for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from ragchat.rag.analyse import analyse

_SAYS_LITTLE: Final = 2.0
_SAYS_ENOUGH: Final = 3.0
"""A question whose terms tell less than this may be a follow-up: without any sign of it, and with a pronoun."""

_FADING: Final = 0.4
"""What the terms of the question before weigh in a follow-up; of the one before that, the square of it."""

_REMEMBERED: Final = 2

_ENGLISH: Final = """
a about above after again all also am an and any are as at be because been before being below between both but
by can could did do does doing during each else ever few for from further get give had happen has have having he
her here hers him his how i if in into is it its just kind know let long many may me might more most much must my
name no nor not of off on once only or other our out over own please same shall she should so some such tell
than that the their them then there these they this those through to too type under until up us used very was we
were what when where which while who whom whose why will with would you your
"""

_GENERAL: Final = """
able add allow call change create different difference enable exactly example find go help include keep
look make mean need off offer own possible precisely provide put set show start support take thing turn
want way work write
"""

_CHINESE: Final = """
什么 是什 么是 么样 怎么 怎样 如何 何时 何地 哪个 哪些 哪里 哪种 哪年 哪位 几个 几年 多少 多大 多长 多久
为什 为何 是否 是谁 谁是 有多 有哪 有什 的是 了什 可以 能够 请问 告诉 我们 你们 他们 它们 这个 那个
这些 那些 是在 在哪 以及 或者 并且 但是 因为 所以
的 了 是 在 有 和 与 或 吗 呢 吧 啊 谁 我 你 他 她 它 什 么 这 那 几 为 以 及 而 被 把 从 到 对
"""

FUNCTION_TERMS: Final = frozenset(analyse(_ENGLISH)) | frozenset(_CHINESE.split())
"""Terms that ask and connect but name nothing: a question made of them alone is about nothing in particular."""

_FUNCTION_WEIGHT: Final = 0.25
"""What they weigh in a search: in few documents, "how" is a rare word too."""

_GENERAL_TERMS: Final = frozenset(analyse(_GENERAL))
_GENERAL_WEIGHT: Final = 0.5
"""Of a term for what can be done with anything."""

_FUNCTION_CHARACTERS: Final = frozenset(term for term in _CHINESE.split() if len(term) == 1)
_HALF_FUNCTION_WEIGHT: Final = 0.25

_GOES_ON: Final = re.compile(
    r"\s*(?:(?:and|but|or|then|also|plus|(?:what|how)\s+about|what\s+if|why|why\s+not)\b"
    r"|(?:in|for|on|with|without|from|to|by)\s+(?:\w+\s*){1,2}\W*\Z"
    r"|那|还有|如果|要是|然后|另外|而且|但是|所以|为什么\W*\Z|\w{1,6}呢\W*\Z)",
    re.IGNORECASE,
)
_POINTS_BACK: Final = re.compile(
    r"\b(?:it|its|they|them|their|those|these|this|that|he|him|his|she|her|there)\b|[它他她]|[这那](?:个|些|样|里)",
    re.IGNORECASE,
)
_IMPERSONAL: Final = re.compile(r"\b(?:is|are|was|were)\s+(?:it\s+possible|there)\b", re.IGNORECASE)

_HAN: Final = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_KANA_OR_HANGUL: Final = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")


def weigh(question: str, earlier: Sequence[str] = ()) -> dict[str, float]:
    """The terms of a question, each with what it weighs.

    It borrows from the ``earlier`` ones (oldest first), with terms that weigh less the longer ago they were used.
    """
    weights = {term: count * _pull(term) for term, count in Counter(analyse(question)).items()}
    for age, before in enumerate(reversed(earlier[-_REMEMBERED:]), 1):
        for term in analyse(before):
            if term not in FUNCTION_TERMS:
                weights.setdefault(term, _FADING**age)
    return weights


def _pull(term: str) -> float:
    """What a term weighs in a search; two Chinese characters that are only half a word still find the place."""
    return 1.0 if telling(term) and not term.isascii() else max(telling(term), _FUNCTION_WEIGHT)


def goes_on(question: str) -> bool:
    """Whether a question is put as one that goes on from those before: "and in winter?", "how big is it?"."""
    if _GOES_ON.match(question):
        return True
    return bool(_POINTS_BACK.search(_IMPERSONAL.sub("", question))) and _tells(question) < _SAYS_ENOUGH


def says_little(question: str) -> bool:
    """Whether a question may need those before it to be understood, whatever it looks like."""
    return _tells(question) < _SAYS_LITTLE


def _tells(question: str) -> float:
    return sum(map(telling, set(analyse(question))))


def telling(term: str) -> float:
    """How much a term says about what a question is about, 0 to 1; 都是 and 的首 are half about nothing."""
    if term in FUNCTION_TERMS:
        return 0.0
    if term in _GENERAL_TERMS:
        return _GENERAL_WEIGHT
    return 1.0 if _FUNCTION_CHARACTERS.isdisjoint(term) else _HALF_FUNCTION_WEIGHT


def is_chinese(text: str) -> bool:
    """Whether ``text`` is written in Chinese: with Han characters, and none of the Japanese or Korean ones."""
    return bool(_HAN.search(text)) and not _KANA_OR_HANGUL.search(text)
