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

import snowballstemmer  # type: ignore[import-untyped]

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


@lru_cache(maxsize=1 << 17)
def _stem(word: str) -> str:
    word = word[:MAX_TERM]
    if word < "\u0250" and not word.isascii():
        word = unicodedata.normalize("NFKD", word).translate(_COMBINING)
    if not word.isascii() or word.isdigit():
        return word
    with _stemming:
        return str(_stemmer.stemWord(word))
