"""Text to terms: the one analyser that both writes the index and reads the questions.

A term is what two texts must share to be about the same thing:

- Chinese, Japanese and Korean are written without reliable spaces, so a run of their characters becomes its
  overlapping pairs: 检索增强 gives 检索, 索增, 增强. A run of one character gives that character. On our
  measurements this finds as much as a dictionary does, and needs none.
- Every other word is folded (Unicode NFKC, case, accents of Latin letters) and, when it is plain ASCII, stemmed
  as English: "continued" and "continuing" are both "continu".
- Numbers lose the commas between their thousands, so 1,190 and 1190 are the same.

Everything else only separates. A term therefore consists of letters and digits alone, whatever was typed.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from functools import lru_cache
from typing import Final

import snowballstemmer

MAX_TERM: Final = 64
"""Characters of a term that count; a longer word is no word."""

CJK: Final = (
    "\u1100-\u11ff\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
"""Characters that are written without spaces, for use inside a regular expression's brackets."""

_RUNS: Final = re.compile(rf"([{CJK}]+)|([^\W_{CJK}]+)")
_CONTRACTION: Final = re.compile(r"['\u2019](?:s|t|re|ve|ll|d|m)\b")
_THOUSANDS: Final = re.compile(r"(?<=\d),(?=\d{3}\b)", re.ASCII)

TOKEN: Final = re.compile(rf"[{CJK}]|[^\W{CJK}]{{1,{MAX_TERM}}}")
"""What the size of a text is counted in: a word, or one character of those above."""

_COMBINING: Final = dict.fromkeys(range(0x300, 0x370))

_stemmer = snowballstemmer.stemmer("english")
_stemming = threading.Lock()  # the stemmer keeps its word in itself, and documents are analysed in threads


def analyse(text: str) -> list[str]:
    """The terms of ``text``, in its order, repeated as often as they occur. Never raises."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    folded = _THOUSANDS.sub("", _CONTRACTION.sub(" ", folded))
    terms: list[str] = []
    for run, word in _RUNS.findall(folded):
        if word:
            terms.append(_stem(word))
        elif len(run) == 1:
            terms.append(run)
        else:
            terms.extend(run[index : index + 2] for index in range(len(run) - 1))
    return terms


def count_tokens(text: str) -> int:
    """The size of ``text`` as chunks measure it: words, and single Chinese, Japanese or Korean characters."""
    return len(TOKEN.findall(text))


def is_chinese(text: str) -> bool:
    """Whether ``text`` is written in Chinese: Han characters, and none of the Japanese or Korean ones."""
    return bool(_HAN.search(text)) and not _KANA_OR_HANGUL.search(text)


_HAN: Final = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_KANA_OR_HANGUL: Final = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")


@lru_cache(maxsize=1 << 17)
def _stem(word: str) -> str:
    word = word[:MAX_TERM]
    if word < "\u0250" and not word.isascii():
        word = unicodedata.normalize("NFKD", word).translate(_COMBINING)
    if not word.isascii() or word.isdigit():
        return word
    with _stemming:
        return str(_stemmer.stemWord(word))


_FUNCTION_WORDS: Final = """
a about above after again all also am an and any are as at be because been before being below between both but by
can could did do does doing during each else ever few for from further get give had has have having he her here
hers him his how i if in into is it its just kind know let many may me might more most much must my name no nor
not of off on once only or other our out over own please same shall she should so some such tell than that the
their them then there these they this those through to too type under until up us used very was we were what when
where which while who whom whose why will with would you your
"""

_CHINESE_FUNCTION_WORDS: Final = """
什么 是什 么是 么样 怎么 怎样 如何 何时 何地 哪个 哪些 哪里 哪种 哪年 哪位 几个 几年 多少 多大 多长 多久 为什 为何 是否 是谁 谁是 有多
有哪 有什 的是 了什 可以 能够 请问 告诉 我们 你们 他们 它们 这个 那个 这些 那些 是在 在哪 以及 或者 并且 但是 因为 所以 的 了 是 在 有
和 与 或 吗 呢 吧 啊 谁 我 你 他 她 它 什 么 这 那 几 为 以 及 而 被 把 从 到 对
"""

FUNCTION_TERMS: Final = frozenset(analyse(_FUNCTION_WORDS)) | frozenset(_CHINESE_FUNCTION_WORDS.split())
"""Terms that ask and connect but name nothing: a question made of them alone is about nothing in particular."""
