"""What the process that reads PDFs does, seen from inside."""

from __future__ import annotations

import io
import json
import resource

import pytest

from ragchat.rag import pdf
from tests.rag.test_parse import make_pdf


class Input:
    def __init__(self, content: bytes) -> None:
        self.buffer = io.BytesIO(content)


def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: bytes) -> object:
    limits: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(resource, "setrlimit", limits.__setitem__)
    monkeypatch.setattr("sys.stdin", Input(content))
    pdf.main()
    assert limits[resource.RLIMIT_AS] == (pdf.MEMORY, pdf.MEMORY)
    assert limits[resource.RLIMIT_CPU] == (pdf.CPU_SECONDS, pdf.CPU_SECONDS)
    assert limits[resource.RLIMIT_FSIZE] == (0, 0)
    return json.loads(capsys.readouterr().out)


def test_pages_come_out_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(monkeypatch, capsys, make_pdf("One", "Two")) == {"pages": ["One", "Two"]}


def test_reasons_come_out_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    encrypted = {"error": "it is encrypted; save a copy without a password"}
    assert answer(monkeypatch, capsys, make_pdf("One", password="x")) == encrypted


def test_a_flood_of_text_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pdf, "MAX_CHARACTERS", 4)
    assert answer(monkeypatch, capsys, make_pdf("Longer")) == {
        "error": "it has more than 4 characters of text; split it"
    }
