"""Bytes to text, and a word for those that are none."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from ragchat.errors import DocumentError, TooLargeError
from ragchat.rag import pdf
from ragchat.rag.parse import media_type, parse

CHINESE = "国标编码的文件，仍然常见。"


def make_pdf(*pages: str, password: str = "") -> bytes:
    """A PDF with one line of text on each page; an empty one gives a page without text."""
    writer = PdfWriter()
    font = writer._add_object(
        DictionaryObject({
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        })
    )  # fmt: skip
    for text in pages:
        page = writer.add_blank_page(300, 300)
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
        )
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode() if text else b"")
        page[NameObject("/Contents")] = writer._add_object(stream)
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        CHINESE.encode(),
        CHINESE.encode("utf-8-sig"),
        CHINESE.encode("utf-16"),
        b"\xfe\xff" + CHINESE.encode("utf-16-be"),
        CHINESE.encode("gb18030"),
    ],
)
def test_the_encodings_of_chinese_files_are_told_apart(content: bytes) -> None:
    assert parse(content, "a.txt").text == CHINESE


def test_line_ends_become_one_kind_and_what_databases_refuse_goes() -> None:
    assert parse("a\r\nb\rc\0d".encode("utf-16"), "a.txt").text == "a\nb\ncd"


def test_only_markdown_has_marks() -> None:
    assert parse(b"# One", "a.md").markdown
    assert not parse(b"# One", "a.txt").markdown


def test_html_becomes_markdown_with_its_headings_lists_tables_and_code() -> None:
    page = b"""<!doctype html><html><head><title>x</title><style>p {}</style></head><body><nav>Menu</nav>
    <h2>Set <b>up</b></h2><p>First &amp;
    second.<br>Third</p><ol><li>one</li><li>two</li></ol><pre>a\n  b</pre><script>bad()</script>
    <table><tr><td>key</td><td>value</td></tr></table><!-- secret --></body></html>"""
    text = parse(page, "a.html")
    assert text.markdown
    assert text.text.split("\n") == [
        "## Set up", "", "First & second.", "Third", "", "- one", "", "- two", "", "```", "a", "  b", "```", "",
        "key  value",
    ]  # fmt: skip


def test_html_says_itself_how_it_is_encoded() -> None:
    assert parse('<meta charset="windows-1252"><p>déjà vu'.encode("cp1252"), "a.html").text == "déjà vu"


def test_html_may_be_nested_without_end() -> None:
    assert parse(b"<div>" * 50_000 + b"deep", "a.html").text == "deep"


def test_a_pdf_has_pages() -> None:
    text = parse(make_pdf("First page", "Second page"), "a.pdf")
    assert [text.text[start:].split("\n")[0] for start in text.pages] == ["First page", "Second page"]


def test_a_pdf_is_a_pdf_whatever_its_name() -> None:
    assert parse(make_pdf("Hello"), "a.txt").pages == (0,)


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"", "a.txt", "a.txt: is empty."),
        (b" \n\t", "a.txt", "a.txt: is empty."),
        (b"<script>x</script>", "a.html", "a.html: has no text in it."),
        (b"plain", "a.pdf", "a.pdf: is called a PDF but is none"),
        (b"%PDF-1.7 garbage", "a.pdf", "a.pdf: this PDF can't be read: it is damaged"),
        (make_pdf("Secret", password="x"), "a.pdf", "it is encrypted; save a copy without a password"),
        (make_pdf(""), "a.pdf", "it has no text, probably because it was scanned"),
        (b"PK\x03\x04rest", "a.txt", "a.txt: is no text but a ZIP archive or an Office document"),
        (b"\x89PNG\r\n", "a.md", "a.md: is no text but an image"),
        (b"some\x00bytes", "a.txt", "a.txt: is no text; it has control characters"),
        ("Le café est très bon".encode("latin-1"), "a.txt", "Save it as UTF-8."),
        (b"\xef\xbb\xbf\xff\xff", "a.txt", "Save it as UTF-8."),
    ],
)
def test_what_can_not_be_read_is_named_with_what_to_do(content: bytes, name: str, reason: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse(content, name)
    assert reason in str(caught.value)


def test_too_many_bytes_are_refused() -> None:
    with pytest.raises(TooLargeError, match=r"a\.txt: has 5 bytes; at most 4 are accepted"):
        parse(b"12345", "a.txt", max_bytes=4)


@given(st.binary(max_size=200), st.sampled_from(["a.txt", "a.md", "a.html"]))
def test_any_bytes_give_text_or_a_reason(content: bytes, name: str) -> None:
    try:
        assert parse(content, name).text.strip()
    except DocumentError as error:
        assert str(error).startswith(f"{name}: ")


def test_names_promise_types() -> None:
    assert media_type("A.PDF") == "application/pdf"
    assert media_type("README") == "text/plain"


def test_a_pdf_that_needs_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "WALL_SECONDS", 0.001)
    with pytest.raises(DocumentError, match=r"took longer than 0.001 s; split it"):
        parse(make_pdf("Hello"), "a.pdf")


def test_a_pdf_reader_that_dies_is_a_reason_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "__file__", "/nonexistent/pdf.py")
    with pytest.raises(DocumentError, match="too much memory or time"):
        parse(make_pdf("Hello"), "a.pdf")
