"""RAGFlow's frames, as its clients read them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ragchat.codecs import ragflow
from ragchat.events import (
    DocumentCount,
    Done,
    Error,
    Event,
    Header,
    Observation,
    Reference,
    Replace,
    RunStatus,
    Status,
    Thinking,
    Token,
    ToolCall,
    Transcript,
)
from tests.fakes.backend import passage

HEADER = Header(run_id="r1", session_id="s1", message_id="m1")
FULL = Reference((passage(1),), (DocumentCount(doc_name="1.md", doc_id="doc1", count=1),), 1, final=True)


def frames(*events: Event) -> list[Any]:
    pairs = ragflow.encode(HEADER, list(enumerate(events, 1)))
    return [(seq, msgspec.json.decode(json)) for seq, json in pairs]


def test_a_token_is_a_delta_with_its_number() -> None:
    data = {"answer": "答", "reference": {}, "id": "m1", "session_id": "s1"}
    assert frames(Status(RunStatus.RUNNING), Token("答")) == [(2, {"code": 0, "message": "", "data": data})]


def test_the_last_chunk_carries_the_full_reference_and_the_marker_follows() -> None:
    (seq, chunk), (_, marker) = frames(FULL, Done("stop"))
    assert (seq, chunk["data"]["answer"]) == (1, "")
    reference = chunk["data"]["reference"]
    assert (reference["total"], reference["doc_aggs"]) == (1, [{"doc_name": "1.md", "doc_id": "doc1", "count": 1}])
    assert set(reference["chunks"][0]) == {
        "id", "content", "document_id", "document_name", "dataset_id", "image_id", "positions", "url",
        "similarity", "vector_similarity", "term_similarity", "doc_type", "document_metadata",
    }  # fmt: skip
    assert marker == {"code": 0, "message": "", "data": True}


def test_an_error_in_the_middle_is_a_frame_with_data_and_the_marker_still_follows() -> None:
    (_, error), (_, marker) = frames(Error(503, "Come back."), Done("error"))
    assert error == {
        "code": 503,
        "message": "Come back.",
        "data": {"answer": "**ERROR**: Come back.", "reference": []},
    }
    assert marker["data"] is True


@pytest.mark.parametrize(
    "event",
    [
        Status(RunStatus.RUNNING),
        Thinking("hm"),
        ToolCall("t1", "search", {}),
        Observation("t1", "found"),
        Reference(total=1),
    ],
)
def test_what_ragflow_has_no_word_for_has_no_frame(event: Event) -> None:
    assert frames(event) == []


def test_a_replacement_says_so() -> None:
    [(_, frame)] = frames(Replace("instead"))
    assert (frame["data"]["answer"], frame["data"]["replace"]) == ("instead", True)


def test_a_whole_answer_is_one_frame() -> None:
    transcript = Transcript()
    transcript.extend([Token("a"), Token("b"), FULL, Done("stop")])
    frame = msgspec.json.decode(ragflow.whole(HEADER, transcript))
    assert (frame["code"], frame["data"]["answer"], frame["data"]["reference"]["total"]) == (0, "ab", 1)


def test_a_whole_answer_that_failed_is_the_error() -> None:
    transcript = Transcript()
    transcript.extend([Token("a"), Error(500, "Broken."), Done("error")])
    assert msgspec.json.decode(ragflow.whole(HEADER, transcript))["code"] == 500
