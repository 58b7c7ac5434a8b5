"""What a backend is: something that answers a prompt, one event after the other.

A new backend is one class with one async generator. It knows nothing of sockets, sessions or logs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Literal, Protocol

import msgspec

from ragchat.events import (
    FinishReason,
    Observation,
    Passage,
    Reference,
    Replace,
    Thinking,
    Token,
    ToolCall,
    Usage,
)


class Turn(msgspec.Struct, frozen=True):
    """One earlier message of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """All that a backend gets to know.

    ``question`` is the user's own words and ``passages`` what was retrieved for them; ``turns`` is the whole
    conversation for a model, oldest first: the system prompt with the passages filled in, earlier messages,
    the question. ``user`` is an opaque name of the principal, never anything that a client chose.
    """

    question: str
    turns: tuple[Turn, ...]
    passages: tuple[Passage, ...] = ()
    user: str = ""


class Finish(msgspec.Struct, frozen=True):
    """The last thing a backend yields: why it stopped, and what it counted."""

    reason: FinishReason = "stop"
    usage: Usage | None = None


Piece = Token | Thinking | ToolCall | Observation | Reference | Replace | Finish
PIECES = (Token, Thinking, ToolCall, Observation, Reference, Replace)
"""What may come before `Finish`; a `Reference` must not be final, which it becomes when the text is known."""


class Doubt(str):
    """A line on something that answers, but perhaps not as it is configured."""


class Backend(Protocol):
    """Produces answers.

    ``continuation`` says how an answer that was cut off can go on: from its text (``prefix``), by generating
    the very same answer again (``replay``), or not at all (``none``).
    """

    @property
    def name(self) -> str:
        """What it is called in logs."""
        ...

    @property
    def continuation(self) -> Literal["none", "prefix", "replay"]:
        """How a cut-off answer can go on."""
        ...

    def answer(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """Yield the answer piece by piece, and `Finish` once at the end.

        Closing the generator, or cancelling the task that iterates it, stops the model: the connection to
        its server is closed before the generator returns.

        Raises:
            BackendError: the server failed; what was yielded before stands.
        """
        ...

    async def check(self) -> str:
        """One line on what answers, for ``ragchat doctor`` and ``/readyz``; a `Doubt` if it may not.

        Raises:
            BackendError: it can't be reached or refuses us.
        """
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...
