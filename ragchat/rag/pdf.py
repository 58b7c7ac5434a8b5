"""Text from a PDF, in a process that may fail: ``python -P pdf.py < document.pdf``.

A PDF is a program written by a stranger. So `read_pages` runs this file as a process of its own, without our
environment, with limits on memory, processor time and what it may write; the process reads the document from
standard input and writes ``{"pages": [...]}`` or ``{"error": "..."}`` to standard output.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import subprocess
import sys
from typing import Any, Final

MEMORY: Final = 1024 * 1024 * 1024
CPU_SECONDS: Final = 60
WALL_SECONDS: Final = 90
MAX_CHARACTERS: Final = 32 * 1024 * 1024


class UnreadableError(Exception):
    """The PDF gives no text; the sentence says why and what to do."""


def read_pages(content: bytes) -> list[str]:
    """The text of each page.

    Raises:
        UnreadableError: it is encrypted, broken, has no text, or needs more than the limits allow.
    """
    try:
        done = subprocess.run(  # noqa: S603  # our own program; the document is its input
            [sys.executable, "-P", __file__],
            input=content,
            capture_output=True,
            timeout=WALL_SECONDS,
            env={},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnreadableError(
            f"reading it took longer than {WALL_SECONDS} s; split it into smaller files"
        ) from None
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise UnreadableError("reading it took too much memory or time; split it into smaller files") from None
    if "error" in answer:
        raise UnreadableError(answer["error"])
    return list(answer["pages"])


def _limit() -> None:
    for what, limit in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # macOS does not know all of them
            resource.setrlimit(what, (limit, limit))


def _extract(content: bytes) -> list[str]:
    from pypdf import PdfReader

    try:
        reader = PdfReader(io.BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError("it is encrypted; save a copy without a password")
        pages: list[str] = []
        for page in reader.pages:
            pages.append(page.extract_text().encode("utf-8", "replace").decode("utf-8"))
            if sum(map(len, pages)) > MAX_CHARACTERS:
                raise UnreadableError(f"it has more than {MAX_CHARACTERS} characters of text; split it")
    except (UnreadableError, MemoryError):
        raise
    except Exception as error:
        if "cryptography" in str(error):
            raise UnreadableError("it is encrypted; save a copy without encryption") from None
        raise UnreadableError(f"it is damaged ({error}); print it to a new PDF") from None
    if not any(page.strip() for page in pages):
        raise UnreadableError(
            "it has no text, probably because it was scanned; run text recognition (OCR) on it first"
        )
    return pages


def main() -> None:
    """Read one PDF as the process that `read_pages` starts."""
    _limit()
    try:
        answer: dict[str, Any] = {"pages": _extract(sys.stdin.buffer.read())}
    except UnreadableError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
