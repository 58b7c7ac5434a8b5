"""The frames of RAGFlow's chat API, and the default of our chat socket and SSE completion.

Every frame is ``{"code", "message", "data"}``. ``answer`` is a delta that clients append; the full
``reference`` comes once, in the last chunk; ``data: true`` ends the answer, also after an error. No frame is
without ``data``, because RAGFlow's clients index it without looking. What these clients have no word for
(status, thoughts, tool calls) is left out. Source: RAGFlow's HTTP API reference, "Converse with chat assistant".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ragchat.events import Done, Error, Event, Header, Reference, Replace, Token, Transcript

_json = msgspec.json.Encoder()
MARKER = _json.encode({"code": 0, "message": "", "data": True})
"""The frame that ends an answer."""


class _Chunk(msgspec.Struct, frozen=True):
    answer: str
    reference: dict[str, Any]
    id: str
    session_id: str


class _Frame(msgspec.Struct, frozen=True):
    code: int
    message: str
    data: _Chunk


class _Replacing(_Chunk, frozen=True):
    replace: bool = True


def encode(header: Header, events: Sequence[tuple[int, Event]]) -> list[tuple[int, bytes]]:
    """Frames for ``(seq, event)`` pairs of one run, as ``(seq, json)``."""
    frames: list[tuple[int, bytes]] = []
    for seq, event in events:
        frame = _frame(header, event)
        if frame is not None:
            frames.append((seq, frame))
    return frames


def _frame(header: Header, event: Event) -> bytes | None:
    match event:
        case Token(data):
            return _json.encode(_Frame(0, "", _Chunk(data, {}, header.message_id, header.session_id)))
        case Reference(final=True):
            chunk = _Chunk("", reference(event), header.message_id, header.session_id)
            return _json.encode(_Frame(0, "", chunk))
        case Replace(data):
            return _json.encode(_Frame(0, "", _Replacing(data, {}, header.message_id, header.session_id)))
        case Error(code, data):
            return error(code, data)
        case Done():
            return MARKER
        case _:
            return None


def reference(event: Reference | None) -> dict[str, Any]:
    """``{total, chunks, doc_aggs}`` in RAGFlow's field names; empty without a reference."""
    if event is None:
        return {}
    return {"total": event.total, "chunks": event.chunks, "doc_aggs": event.doc_aggs}


def error(code: int, message: str) -> bytes:
    """The error frame."""
    return _json.encode(
        {"code": code, "message": message, "data": {"answer": f"**ERROR**: {message}", "reference": []}}
    )


def whole(header: Header, transcript: Transcript) -> bytes:
    """A finished answer as one frame: what ``"stream": false`` asks for."""
    if transcript.error is not None:
        return error(transcript.error.code, transcript.error.data)
    chunk = _Chunk(transcript.text, reference(transcript.reference), header.message_id, header.session_id)
    return _json.encode(_Frame(0, "", chunk))
