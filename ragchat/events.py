"""What can happen in a run, and in which order.

A run is one answer (kind ``chat``) or one execution of a workflow (kind ``workflow``). Whatever happens in it
is one of the small immutable values below, and the log numbers them 1, 2, 3 … without gaps. That number is
called ``seq`` and is the only cursor there is: a client that says "I have everything up to 41" is served from
42 on, over whichever transport, codec and worker it comes back on.

The legal order is data, not code: `FOLLOWS` says which event may come after which. In words:

    Status ──► Status, Reference, Thinking, Token, ToolCall, Observation, Replace (any number, any order)
           ──► Error (at most one) ──► Reference (the final one) ──► Done (exactly one, always last)

`Order` walks along that table while events are written, so a backend that speaks after its end, or an
observation of a tool that nobody called, fails in one place and is never shown to anyone.

This module imports nothing else of ragchat.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

FinishReason = Literal["stop", "length", "cancelled", "error"]
RunKind = Literal["chat", "workflow"]


class RunStatus(enum.StrEnum):
    """The states of a run; the last three are final."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


STATUS_OF: Final[Mapping[FinishReason, RunStatus]] = {
    "stop": RunStatus.COMPLETED,
    "length": RunStatus.COMPLETED,
    "cancelled": RunStatus.CANCELLED,
    "error": RunStatus.FAILED,
}
"""The final status of a run that finished for a reason."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What every event of one run has in common; fixed before the first event is written."""

    run_id: str
    kind: RunKind = "chat"
    chat_id: str = ""
    session_id: str = ""
    message_id: str = ""


class Event(msgspec.Struct, frozen=True, tag_field="type"):
    """One fact in a run's log. Its ``seq`` is its place in the log, so no event carries one."""


class Status(Event, frozen=True, tag="status"):
    """The run changed its state. ``progress`` is a percentage, 0 to 100, or None when nobody can know."""

    status: RunStatus
    progress: float | None = None
    message: str = ""


class Token(Event, frozen=True, tag="token"):
    """``data`` is appended to the answer."""

    data: str


class Thinking(Event, frozen=True, tag="thinking"):
    """``content`` is appended to what the model thought before it answered."""

    content: str


class ToolCall(Event, frozen=True, tag="tool_call"):
    """The backend calls a tool; ``input`` is the JSON object it was called with."""

    id: str
    name: str
    input: dict[str, Any]


class Observation(Event, frozen=True, tag="observation"):
    """What the tool call ``id`` returned."""

    id: str
    content: str


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that was retrieved for a question, in RAGFlow's field names.

    ``positions`` holds one ``[page, start, end]`` per place the text came from (page from 1, or 0 where there
    are no pages; character offsets in the parsed text). Similarities are in 0 to 1.
    """

    id: str
    content: str
    document_id: str
    document_name: str
    dataset_id: str
    image_id: str = ""
    positions: tuple[tuple[int, ...], ...] = ()
    url: str | None = None
    similarity: float = 0.0
    vector_similarity: float = 0.0
    term_similarity: float = 0.0
    doc_type: str = ""
    document_metadata: dict[str, Any] | None = None


class DocumentCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the passages come from one document."""

    doc_name: str
    doc_id: str
    count: int


class Reference(Event, frozen=True, tag="reference"):
    """The passages of the answer. ``[ID:n]`` in the text is ``chunks[n]``, so ``chunks`` is never thinned out.

    Written once before the first token, and once more with ``final`` set when the text is known: ``doc_aggs``
    then counts only what was cited.
    """

    chunks: tuple[Passage, ...] = ()
    doc_aggs: tuple[DocumentCount, ...] = ()
    total: int = 0
    final: bool = False


class Replace(Event, frozen=True, tag="replace"):
    """The whole answer so far is replaced by ``data`` (moderation, or an attempt that was started again)."""

    data: str


class Error(Event, frozen=True, tag="error"):
    """The run failed. ``code`` is an HTTP status, ``data`` a sentence for a person; `Done` follows."""

    code: int
    data: str
    retryable: bool = False


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens as the backend counted them; zero where it does not say."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Done(Event, frozen=True, tag="done"):
    """The end of the run, always the last event of its log."""

    finish_reason: FinishReason
    usage: Usage | None = None
    message_id: str = ""
    session_id: str = ""


AnyEvent = Status | Token | Thinking | ToolCall | Observation | Reference | Replace | Error | Done

_BODY: Final[frozenset[type[Event]]] = frozenset(
    {Status, Token, Thinking, ToolCall, Observation, Reference, Replace, Error, Done}
)

FOLLOWS: Final[Mapping[type[Event] | None, frozenset[type[Event]]]] = {
    None: frozenset({Status}),
    Status: _BODY,
    Token: _BODY,
    Thinking: _BODY,
    ToolCall: _BODY,
    Observation: _BODY,
    Reference: _BODY,
    Replace: _BODY,
    Error: frozenset({Reference, Done}),
    Done: frozenset(),
}
"""Which events may come directly after an event of that type; None is the empty log."""


class OutOfOrderError(Exception):
    """A writer tried to append an event that may not come here: a defect of the writer, never of a client."""


class Order:
    """Checks one run's events against `FOLLOWS` as they are written."""

    def __init__(self) -> None:
        self._last: type[Event] | None = None
        self._failed = False
        self._final = False
        self._calls: set[str] = set()

    @property
    def ended(self) -> bool:
        """Whether `Done` has been seen."""
        return self._last is Done

    def advance(self, event: Event) -> None:
        """Accept ``event`` as the next one.

        Raises:
            OutOfOrderError: it may not come here.
        """
        kind = type(event)
        if kind is Token and self._last is Token:
            return  # what nearly all events are
        allowed = FOLLOWS[Error] if self._failed and self._last is not Done else FOLLOWS[self._last]
        if self._final:
            allowed = allowed & {Done}
        if kind not in allowed:
            after = self._last.__name__ if self._last else "the beginning"
            raise OutOfOrderError(f"{kind.__name__} may not follow {after}")
        if isinstance(event, ToolCall):
            self._calls.add(event.id)
        elif isinstance(event, Observation) and event.id not in self._calls:
            raise OutOfOrderError(f"Observation of the tool call {event.id!r}, which was never made")
        elif isinstance(event, Reference):
            self._final = event.final
        self._failed = self._failed or kind is Error
        self._last = kind


MAX_JOINED: Final = 2048
"""Characters of one joined event: whoever is cut off every few kilobytes still gets ahead."""


def join(events: Sequence[Event]) -> list[tuple[int, Event]]:
    """Write neighbouring tokens (and neighbouring thoughts) as one event, up to `MAX_JOINED` characters.

    Returns:
        Pairs ``(index, event)``: the index in ``events`` of the last one that went into ``event``.
    """
    if len(events) == 1:
        return [(0, events[0])]
    joined: list[tuple[int, Event]] = []
    kind: type[Token] | type[Thinking] | None = None
    parts: list[str] = []
    room = 0

    def close(index: int) -> None:
        nonlocal kind
        if kind is not None:
            joined.append((index - 1, kind("".join(parts))))
        kind = None
        parts.clear()

    for index, event in enumerate(events):
        if not isinstance(event, (Token, Thinking)):
            close(index)
            joined.append((index, event))
            continue
        text = event.data if isinstance(event, Token) else event.content
        if type(event) is not kind or len(text) > room:
            close(index)
            kind, room = type(event), MAX_JOINED
        parts.append(text)
        room -= len(text)
    close(len(events))
    return joined


class Transcript:
    """What a run amounts to so far: its events folded into the message that is saved and shown.

    ``text`` and ``thinking`` are what a client gets that appends every token and obeys every `Replace`.
    """

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thinking: list[str] = []
        self.reference: Reference | None = None
        self.error: Error | None = None
        self.done: Done | None = None

    @property
    def text(self) -> str:
        """The answer so far."""
        if len(self._text) > 1:
            self._text = ["".join(self._text)]
        return self._text[0] if self._text else ""

    @property
    def thinking(self) -> str:
        """The model's thoughts so far."""
        return "".join(self._thinking)

    def apply(self, event: Event) -> None:
        """Take one more event in."""
        match event:
            case Token(data):
                self._text.append(data)
            case Thinking(content):
                self._thinking.append(content)
            case Replace(data):
                self._text = [data]
            case Reference():
                self.reference = event
            case Error():
                self.error = event
            case Done():
                self.done = event
            case _:
                pass

    def extend(self, events: Sequence[Event]) -> None:
        """Take several events in."""
        for event in events:
            self.apply(event)
