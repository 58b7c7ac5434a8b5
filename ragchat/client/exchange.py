"""What the two ways to ask a question have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ragchat.client.frames import Frame

Deliver = Callable[[Frame], None]


class Exchange(Protocol):
    """One question and its answer, over one transport."""

    @property
    def run_id(self) -> str | None:
        """The run that answers, where the transport says it."""
        ...

    async def talk(self, deliver: Deliver) -> None:
        """Send the question and ``deliver`` every frame of its answer, up to the last one.

        Raises:
            UnusableError: the transport does not work here; the question was not sent.
            ClientError: the question failed.
        """
        ...

    async def cancel(self) -> None:
        """Have the answer stopped, now or as soon as it has begun.

        Raises:
            ClientError: the service could not be told.
        """
        ...
