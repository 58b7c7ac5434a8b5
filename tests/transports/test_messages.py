"""Reading what clients send: strictly, with a sentence for each mistake."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict

from ragchat.errors import RequestError, TooLargeError
from ragchat.runs.chat import Ask
from ragchat.transports.messages import ask_fields, parse_ask, parse_object

MINIMAL = {"chat_id": "c", "question": "q"}


def test_a_minimal_question_has_the_usual_defaults() -> None:
    assert parse_ask(MINIMAL) == Ask(chat_id="c", question="q", stream=True)


def test_fields_that_nobody_knows_and_fields_that_are_null_are_ignored() -> None:
    assert parse_ask({**MINIMAL, "type": "chat", "temperature": 1, "session_id": None}) == parse_ask(MINIMAL)


@pytest.mark.parametrize("nothing", ["", " , ", []])
def test_a_list_that_names_nothing_narrows_nothing(nothing: Any) -> None:
    assert parse_ask({**MINIMAL, "doc_ids": nothing, "kb_ids": nothing, "session_id": ""}) == parse_ask(MINIMAL)


@pytest.mark.parametrize("doc_ids", ["a,b", " a , b ,", ["a", "b"]])
def test_document_ids_come_as_a_list_or_separated_by_commas(doc_ids: Any) -> None:
    assert parse_ask({**MINIMAL, "doc_ids": doc_ids}).doc_ids == ("a", "b")


def test_more_ids_than_a_search_can_be_narrowed_to_are_refused() -> None:
    with pytest.raises(RequestError, match="`doc_ids` has 1000 ids; at most 256"):
        parse_ask({**MINIMAL, "doc_ids": ["x"] * 1000})


def test_a_byte_order_mark_is_not_part_of_the_message() -> None:
    assert parse_object(b"\xef\xbb\xbf{}", 10) == {}


def test_what_is_too_long_is_not_even_parsed() -> None:
    with pytest.raises(TooLargeError):
        parse_object("x" * 11, 10)


@given(st.one_of(st.text(), st.binary()))
def test_whatever_comes_is_an_object_or_a_request_error(data: str | bytes) -> None:
    try:
        assert isinstance(parse_object(data, 1000), dict)
    except RequestError as error:
        assert str(error)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(Ask.__struct_fields__), json_values))
def test_whatever_the_fields_are_they_are_a_question_or_a_request_error(fields: dict[str, Any]) -> None:
    try:
        assert isinstance(parse_ask(fields), Ask)
    except RequestError as error:
        assert "`" in str(error)


def test_query_parameters_make_the_same_question() -> None:
    arguments = MultiDict(
        [
            ("chat_id", "c"),
            ("question", "为什么?"),
            ("kb_ids", "a"),
            ("kb_ids", "b,c"),
            ("stream", "false"),
            ("token", "t"),
        ]
    )
    assert parse_ask(ask_fields(arguments)) == Ask(
        chat_id="c", question="为什么?", kb_ids=("a", "b", "c"), stream=False
    )


def test_a_stream_parameter_that_is_neither_true_nor_false_is_named() -> None:
    with pytest.raises(RequestError, match="`stream` must be true or false"):
        ask_fields(MultiDict({"stream": "maybe"}))
