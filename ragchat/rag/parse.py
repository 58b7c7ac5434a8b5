"""Bytes to text: plain text, Markdown, HTML and PDF.

What a file is, its content decides before its name: a PDF is a PDF whatever it is called, and an image called
``notes.txt`` is refused. HTML is rewritten as Markdown, so that one splitter sees the headings, lists and code of
both.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import Final

from selectolax.lexbor import LexborHTMLParser, LexborNode

from ragchat.errors import DocumentError, TooLargeError
from ragchat.rag.pdf import UnreadableError, read_pages
from ragchat.rag.split import Text

MEDIA_TYPES: Final = {
    ".txt": "text/plain",
    ".text": "text/plain",
    ".rst": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".xhtml": "text/html",
    ".pdf": "application/pdf",
}
"""The file name endings that are read from folders, and what they promise."""


def media_type(name: str) -> str:
    """What a file of this name should be; plain text when its ending says nothing."""
    return MEDIA_TYPES.get(PurePath(name).suffix.lower(), "text/plain")


def parse(content: bytes, name: str, *, max_bytes: int = 64 * 1024 * 1024) -> Text:
    """The text of a document.

    Args:
        content: the file's bytes.
        name: its file name, for its ending and for the sentences of errors.
        max_bytes: the largest document that is accepted.

    Raises:
        TooLargeError: it has more than ``max_bytes``.
        DocumentError: it can't be read, with the reason and what to do about it.
    """
    if len(content) > max_bytes:
        raise TooLargeError(f"{name}: has {len(content)} bytes; at most {max_bytes} are accepted. Split it.")
    if not content.strip():
        raise DocumentError(f"{name}: is empty.")
    kind = media_type(name)
    if b"%PDF-" in content[:1024]:
        text = _pdf(content, name)
    elif kind == "application/pdf":
        raise DocumentError(
            f"{name}: is called a PDF but is none. Check that it was saved or downloaded completely."
        )
    elif kind == "text/html":
        text = Text(text=_html_to_markdown(_decode(content, name, _declared_charset(content))), markdown=True)
    else:
        text = Text(text=_normalised(_decode(content, name)), markdown=kind == "text/markdown")
    if not text.text.strip():
        raise DocumentError(f"{name}: has no text in it.")
    return text


def _pdf(content: bytes, name: str) -> Text:
    try:
        pages = [f"{_normalised(page).strip()}\n\n" for page in read_pages(content)]
    except UnreadableError as error:
        raise DocumentError(f"{name}: this PDF can't be read: {error}.") from None
    starts = [0]
    for page in pages[:-1]:
        starts.append(starts[-1] + len(page))
    return Text(text="".join(pages), pages=tuple(starts))


_MAGIC: Final = (
    (b"PK\x03\x04", "a ZIP archive or an Office document; save it as PDF, HTML or text"),
    (b"\xd0\xcf\x11\xe0", "an old Office document; save it as PDF, HTML or text"),
    (b"\x89PNG", "an image; run text recognition (OCR) on it first"),
    (b"\xff\xd8\xff", "an image; run text recognition (OCR) on it first"),
    (b"GIF8", "an image; run text recognition (OCR) on it first"),
    (b"\x1f\x8b", "compressed; unpack it first"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90", "a program"),
)

_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _decode(content: bytes, name: str, declared: str = "") -> str:
    for magic, what in _MAGIC:
        if content.startswith(magic):
            raise DocumentError(f"{name}: is no text but {what}.")
    encoding = next((encoding for bom, encoding in _BOMS if content.startswith(bom)), "")
    if not encoding and _CONTROL.search(content):
        raise DocumentError(f"{name}: is no text; it has control characters as only binary files do.")
    for candidate in [encoding] if encoding else ["utf-8", declared, "gb18030"]:
        try:
            text = content.decode(candidate) if candidate else ""
        except (UnicodeDecodeError, LookupError):
            continue
        if text and (candidate != "gb18030" or declared == candidate or _reads_as_chinese(text)):
            return text
    raise DocumentError(f"{name}: is neither UTF-8 nor UTF-16 nor GB18030. Save it as UTF-8.")


_CONTROL: Final = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def _reads_as_chinese(text: str) -> bool:
    """Almost any bytes are GB18030; those of Chinese text are nearly all of its everyday part, GB 2312."""
    foreign = [character for character in text if not character.isascii()]
    everyday = "".join(foreign).encode("gb2312", "ignore").decode("gb2312")
    return len(everyday) >= 0.9 * len(foreign)


def _declared_charset(content: bytes) -> str:
    match = re.search(rb"""<meta[^>]+charset=["']?([\w-]+)""", content[:2048], re.IGNORECASE)
    return match[1].decode("ascii") if match else ""


def _normalised(text: str) -> str:
    """One kind of line end, and nothing that a database refuses."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").encode("utf-8", "replace").decode()


_SKIPPED: Final = frozenset(
    {"script", "style", "noscript", "template", "nav", "svg", "iframe", "head", "-comment"}
)
_BLOCKS: Final = re.compile(
    "address|article|aside|blockquote|dd|div|dl|dt|fieldset|figcaption|figure|footer|form|header|hr|main|ol|p|section"
    "|table|ul"
)


def _html_to_markdown(html: str) -> str:
    root = LexborHTMLParser(html).body
    text = "".join(_markdown(root)) if root is not None else ""
    return _normalised(re.sub(r"\n[ \t]*(?:\n[ \t]*)+", "\n\n", text)).strip()


def _markdown(root: LexborNode) -> Iterator[str]:
    """Walks without recursion: a page may be nested a hundred thousand deep."""
    stack: list[LexborNode | str] = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            yield node
            continue
        tag = node.tag or ""
        if tag == "-text":
            yield re.sub(r"\s+", " ", node.text_content or "")
        elif tag == "pre":
            yield f"\n\n```\n{node.text().strip(chr(10))}\n```\n\n"
        elif tag == "br":
            yield "\n"
        elif tag not in _SKIPPED:
            opening, closing = _marks(tag)
            stack.append(closing)
            stack.extend(reversed(list(node.iter(include_text=True))))
            stack.append(opening)


def _marks(tag: str) -> tuple[str, str]:
    if re.fullmatch(r"h[1-6]", tag):
        return f"\n\n{'#' * int(tag[1])} ", "\n\n"
    if tag == "li":
        return "\n- ", "\n"
    if tag in {"td", "th"}:
        return " ", " "
    if tag == "tr":
        return "\n", "\n"
    return ("\n\n", "\n\n") if _BLOCKS.fullmatch(tag) else ("", "")
