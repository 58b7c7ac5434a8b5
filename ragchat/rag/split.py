"""Text to chunks, along its own structure.

A chunk is a piece of a document that can be read, found and cited by itself. It never crosses a heading that has
text of its own before it, and it is cut, in this order of preference, between blocks (paragraphs, lists, tables,
code), between lines or sentences, and only then between words. The headings that a chunk stands under travel with
it. Where a paragraph had to be cut, a chunk repeats the last sentence of the one before, when that is short.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Final

import msgspec
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ragchat.rag.analyse import TOKEN, count_tokens

Span = tuple[int, int]

_OVERLAP_SHARE: Final = 8
"""A repeated sentence takes at most this part (1/8) of a chunk."""

_CHARACTERS_PER_TOKEN: Final = 16
"""Text without words (rows of dots, encoded data) is cut at this many characters per token."""


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """What was read from a document.

    ``pages`` are the offsets in ``text`` at which its pages begin (empty where there are none); ``markdown``
    says that its headings, lists and code are marked as in CommonMark.
    """

    text: str
    pages: tuple[int, ...] = ()
    markdown: bool = False


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One chunk: the characters from ``start`` to ``end`` of a document.

    ``headings`` is the path of the headings it stands under, with those that it begins with; ``text`` is what
    comes after them. ``positions`` has one ``(page, start, end)`` for every page that it touches; the page is 0
    without pages.
    """

    text: str
    start: int
    end: int
    headings: tuple[str, ...] = ()
    positions: tuple[tuple[int, int, int], ...] = ()

    @property
    def content(self) -> str:
        """The text under the path of its headings, as it is indexed, shown to a model and cited."""
        return "\n\n".join(part for part in (" > ".join(self.headings), self.text) if part)


def split(text: Text, limit: int) -> list[Piece]:
    """Cut ``text`` into pieces of at most ``limit`` tokens; the path of the headings comes on top.

    Every character that is not white space is in at least one piece, and the pieces are in the text's order.
    """
    return [
        _piece(text, [*above, *_headings(section)], span)
        for above, section in _sections(text)
        for span in _pack(text.text, section, limit)
    ]


def _piece(text: Text, headings: list[_Block], span: Span) -> Piece:
    start, end = span
    body = max([start, *(min(heading.end, end) for heading in headings)])
    return Piece(
        text=text.text[body:end].strip(),
        start=start,
        end=end,
        headings=tuple(heading.title for heading in headings if heading.title),
        positions=_positions(text.pages, start, end),
    )


def sentences(text: str, start: int = 0, end: int | None = None) -> list[Span]:
    """Where the sentences of ``text[start:end]`` are, without the white space around them."""
    end = len(text) if end is None else end
    spans: list[Span] = []
    begin = start
    code = [span.span() for span in _CODE_SPAN.finditer(text, start, end)]
    openings = [opening for opening, _ in code]
    for match in _SENTENCE_END.finditer(text, start, end):
        before = bisect_right(openings, match.start()) - 1
        if before >= 0 and match.start() < code[before][1]:
            continue
        if _ABBREVIATION.search(text, max(begin, match.start() - 12), match.start() + 1):
            continue
        spans.append((begin, match.end()))
        begin = match.end()
    spans.append((begin, end))
    return [span for span in (_trim(text, *span) for span in spans) if span[0] < span[1]]


# Possessive, and anchored where a run of marks begins: what people draw with dots would take quadratic time.
_SENTENCE_END: Final = re.compile(
    r"(?<![.!?…])[.!?…]++[\"'\u201d\u2019)\]]*+(?=\s+[^a-z\s]|\s*\Z)"
    r"|(?:[。！？；]|……)[。！？；…]*[”’」』）》]*|\n[ \t]*\n"
)
_CODE_SPAN: Final = re.compile(r"(?<!`)(`++)[^`\n]++\1(?!`)")
_ABBREVIATION: Final = re.compile(
    r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|St|Prof|Gen|Sen|Rep|Lt|Col|Gov|Jr|Sr|No|Fig|vs|cf|al|ca|etc|approx|e\.g|i\.e|U\.S))\.\Z"
)


class _Block(msgspec.Struct, frozen=True):
    """Something that belongs together; ``prose`` is cut at sentences, everything else at lines."""

    start: int
    end: int
    prose: bool = True
    level: int = 0  # of a heading; 0 is no heading
    title: str = ""


class _Atom(msgspec.Struct, frozen=True):
    """What is not cut any further. ``follows`` when it and the atom before were cut out of one sentence flow."""

    start: int
    end: int
    tokens: int
    follows: bool = False


def _sections(text: Text) -> Iterator[tuple[list[_Block], list[_Block]]]:
    """The headings above each section, and its blocks: its own heading, or several without text between, first."""
    path: list[_Block] = []
    above: list[_Block] = []
    section: list[_Block] = []
    for block in _markdown_blocks(text.text) if text.markdown else _paragraphs(text.text):
        if block.level:
            if any(not member.level for member in section):
                yield above, section
                section = []
            if not section:
                above = _path([*path, block])[:-1]
            path = _path([*path, block])
        section.append(block)
    if section:
        yield above, section


def _path(headings: list[_Block]) -> list[_Block]:
    """The headings that are still open after the last one."""
    path: list[_Block] = []
    for heading in headings:
        path = [*(above for above in path if above.level < heading.level), heading]
    return path


def _headings(section: list[_Block]) -> list[_Block]:
    return [block for block in section if block.level]


def _paragraphs(text: str) -> Iterator[_Block]:
    start = 0
    for match in re.finditer(r"\n[ \t]*\n\s*", text):
        yield _Block(start, match.end())
        start = match.end()
    yield _Block(start, len(text))


def _markdown_blocks(text: str) -> Iterator[_Block]:
    """The top-level blocks; each reaches to the next, so that nothing between them (link targets) is lost."""
    lines = [0, *(match.end() for match in re.finditer(r"\n", text))]
    # The parser would take a lone carriage return for a line of its own and lines would be counted differently.
    tokens = _markdown.parse(text.replace("\r", " "))
    openings = [
        (index, token, lines[token.map[0]])
        for index, token in enumerate(tokens)
        if token.level == 0 and token.map and token.nesting >= 0
    ]
    first = openings[0][2] if openings else len(text)
    if text[:first].strip():
        yield _Block(0, first)
    ends = [start for _, _, start in openings[1:]] + [len(text)]
    for (index, token, start), end in zip(openings, ends, strict=False):
        if token.type == "heading_open":
            yield _Block(start, end, level=int(token.tag[1]), title=_plain(tokens[index + 1]))
        else:
            yield _Block(start, end, prose=token.type == "paragraph_open")


_markdown: Final = MarkdownIt("commonmark").enable("table")


def _plain(inline: Token) -> str:
    return "".join(child.content for child in inline.children or () if child.type in {"text", "code_inline"})


def _pack(text: str, section: list[_Block], limit: int) -> Iterator[Span]:
    """Fill chunks with what fits into them."""
    atoms = [atom for block in section for atom in _atoms(text, block, limit)]
    chunk: list[_Atom] = []
    for atom in atoms:
        if chunk and sum(member.tokens for member in chunk) + atom.tokens > limit:
            yield _span(chunk)
            last = chunk[-1]
            repeat = atom.follows and last.tokens <= min(limit // _OVERLAP_SHARE, limit - atom.tokens)
            chunk = [last] if repeat else []
        chunk.append(atom)
    if chunk:
        yield _span(chunk)


def _atoms(text: str, block: _Block, limit: int) -> Iterator[_Atom]:
    start, end = _trim(text, block.start, block.end)
    if start == end:
        return
    if (tokens := _size(text, start, end)) <= limit:
        yield _Atom(start, end, tokens)
        return
    follows = False
    for part in sentences(text, start, end) if block.prose else _lines(text, start, end):
        for piece in _windows(text, *part, limit):
            yield _Atom(*piece, _size(text, *piece), follows and block.prose)
            follows = True


def _lines(text: str, start: int, end: int) -> list[Span]:
    ends = [match.end() for match in re.compile(r"\n").finditer(text, start, end)]
    spans = (_trim(text, *span) for span in zip([start, *ends], [*ends, end], strict=True))
    return [span for span in spans if span[0] < span[1]]


def _windows(text: str, start: int, end: int, limit: int) -> Iterator[Span]:
    """``text[start:end]`` in spans of at most ``limit`` tokens, cut before a word."""
    while _size(text, start, end) > limit:
        words = TOKEN.finditer(text, start, min(end, start + limit * _CHARACTERS_PER_TOKEN))
        cut = start + limit * _CHARACTERS_PER_TOKEN
        for count, word in enumerate(words):
            if count == limit:
                cut = word.start()
                break
        yield _trim(text, start, cut)
        start = _trim(text, cut, end)[0]
    if start < end:
        yield start, end


def _size(text: str, start: int, end: int) -> int:
    return max(count_tokens(text[start:end]), -((start - end) // _CHARACTERS_PER_TOKEN))


def _trim(text: str, start: int, end: int) -> Span:
    """Without the white space around; empty when there is nothing else."""
    begin = end - len(text[start:end].lstrip())
    return begin, begin + len(text[begin:end].rstrip())


def _span(chunk: list[_Atom]) -> Span:
    return chunk[0].start, chunk[-1].end


def _positions(pages: tuple[int, ...], start: int, end: int) -> tuple[tuple[int, int, int], ...]:
    if not pages:
        return ((0, start, end),)
    first, last = bisect_right(pages, start), bisect_right(pages, max(start, end - 1))
    bounds = [start, *pages[first:last], end]
    return tuple((first + index, bounds[index], bounds[index + 1]) for index in range(len(bounds) - 1))
