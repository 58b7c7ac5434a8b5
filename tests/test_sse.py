"""The event-stream reader, on what the standard shows and on what servers of models send."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragchat.sse import Message, MessageReader, MessageTooLongError

STREAMS = {
    b"data: one\n\n": [Message(b"one")],
    b"data:one\n\ndata:  two\n\n": [Message(b"one"), Message(b" two")],
    b"data: one\r\n\r\ndata: two\r\rdata: three\n\n": [Message(b"one"), Message(b"two"), Message(b"three")],
    b"data: one\r\ndata: two\r\n\r\n": [Message(b"one\ntwo")],
    b"data: one\r\n\ndata: two\n\r\ndata: three\r\r\n": [Message(b"one"), Message(b"two"), Message(b"three")],
    b"data\ndata\n\ndata\n\n": [Message(b"\n")],
    b"\xef\xbb\xbfdata: one\n\n": [Message(b"one")],
    b"\xef\xbb\xbf\xef\xbb\xbfdata: one\n\n": [],
    b": comment\n\ndata: one\n: comment\n\n:\n\n": [Message(b"one")],
    b"event: add\nid: 7\nretry: 9\ncolour: red\ndata: one\n\ndata: two\n\n": [
        Message(b"one", b"add"),
        Message(b"two"),
    ],
    b"event: ping\n\ndata: one\n\n": [Message(b"one")],
    b"data: a\xe2\x80\xa8b\xc2\x85c\x0bd\n\n": [Message(b"a\xe2\x80\xa8b\xc2\x85c\x0bd")],
    "data: 你好 🌍\n\n".encode(): [Message("你好 🌍".encode())],
    b'{"n": 1}\n{"n": 2}\n': [Message(b'{"n": 1}'), Message(b'{"n": 2}')],
    b'data: one\n\nerror: {"code": 500}\n': [Message(b"one"), Message(b'{"code": 500}', b"error")],
    b"data: one\n": [Message(b"one")],
    b"data: one": [Message(b"one")],
    b"": [],
    b"\n\r\n\r": [],
}


def read(*pieces: bytes) -> list[Message]:
    reader = MessageReader()
    messages = [message for piece in pieces for message in reader.feed(piece)]
    return messages + list(reader.end())


@pytest.mark.parametrize(("stream", "messages"), STREAMS.items())
def test_messages_do_not_depend_on_where_the_bytes_are_cut(stream: bytes, messages: list[Message]) -> None:
    """Whole, cut once anywhere, and byte by byte, a stream has the same messages."""
    assert read(stream) == messages
    assert read(*(bytes([byte]) for byte in stream)) == messages
    for cut in range(1, len(stream)):
        assert read(stream[:cut], b"", stream[cut:]) == messages, cut


@given(st.lists(st.sampled_from(sorted(STREAMS))), st.data())
def test_streams_in_a_row_cut_anywhere(streams: list[bytes], data: st.DataObject) -> None:
    """However often a stream is cut, it has the messages that it has in one piece."""
    stream = b"\n\n".join(streams)
    positions = data.draw(st.lists(st.integers(0, len(stream))))
    pieces = [stream[start:end] for start, end in itertools.pairwise([0, *sorted(positions), len(stream)])]
    assert read(*pieces) == read(stream)


@given(st.binary())
def test_any_bytes_can_be_read(stream: bytes) -> None:
    """Garbage has messages or none, but never another error."""
    assert read(stream) == read(*(bytes([byte]) for byte in stream))


def test_a_message_is_there_as_soon_as_its_line_ends_are() -> None:
    """A carriage return alone ends a line: nothing waits for a line feed that may never come."""
    assert list(MessageReader().feed(b"data: one\r\r")) == [Message(b"one")]


@pytest.mark.parametrize(
    "stream",
    [b"data: " + b"x" * 20, b"x" * 20, b"x" * 20 + b"\n", b"data: 12345678\n" * 3, b'{"n": 1234567890123}\n'],
)
def test_what_grows_beyond_the_limit_is_refused(stream: bytes) -> None:
    """An endless line, or an endless message of short lines, can't fill the memory."""
    reader = MessageReader(max_bytes=16)
    with pytest.raises(MessageTooLongError):
        list(itertools.chain.from_iterable(reader.feed(bytes([byte])) for byte in stream))


def test_the_limit_itself_is_accepted() -> None:
    assert list(MessageReader(max_bytes=16).feed(b"data: 1234567890\n\n")) == [Message(b"1234567890")]


def test_messages_before_one_that_is_too_long_are_given_out() -> None:
    messages = MessageReader(max_bytes=16).feed(b"data: one\n\n" + b"x" * 20)
    assert next(messages) == Message(b"one")
    with pytest.raises(MessageTooLongError):
        next(messages)


def test_the_last_id_is_that_of_a_complete_message() -> None:
    """A reader that resumes after ``last_event_id`` misses nothing that it has not given out."""
    reader = MessageReader()
    list(reader.feed(b"id: 1\ndata: one\n\nid: 2\ndata: two\n"))
    assert reader.last_event_id == "1"
    list(reader.feed(b"\n"))
    assert reader.last_event_id == "2"
