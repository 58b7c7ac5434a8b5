"""Which passages an answer cites."""

from __future__ import annotations

import pytest

from ragchat.events import DocumentCount, Reference
from ragchat.rag.cite import cite, cited
from tests.fakes.backend import passage

REFERENCE = Reference((passage(0), passage(1), passage(2)), total=3)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("So it is [ID:1]. And [ID:0] [ID:1].", [1, 0]),
        ("[ID: 2]", [2]),
        ("[ID:3] [ID:99999999999] [ID:-1] [ID:x] ID:0 [1]", []),
        ("", []),
    ],
)
def test_citations_are_read_in_order_once_and_in_range(text: str, numbers: list[int]) -> None:
    assert cited(text, 3) == numbers


def test_documents_are_counted_that_were_cited_and_passages_stay() -> None:
    final = cite(REFERENCE, "Yes [ID:2].")
    assert final.doc_aggs == (DocumentCount(doc_name="2.md", doc_id="doc2", count=1),)
    assert final.chunks == REFERENCE.chunks
    assert final.total == 3
    assert final.final


def test_all_documents_are_counted_when_nothing_was_cited() -> None:
    assert [document.doc_id for document in cite(REFERENCE, "Yes.").doc_aggs] == ["doc0", "doc1", "doc2"]


def test_passages_of_one_document_are_counted_together() -> None:
    both = Reference((passage(1), passage(1)), total=2)
    assert cite(both, "[ID:0][ID:1]").doc_aggs == (DocumentCount(doc_name="1.md", doc_id="doc1", count=2),)
