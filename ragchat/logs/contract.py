"""What a log is, whoever keeps it.

* A log belongs to one run and holds its events under the numbers 1, 2, 3 … There are no gaps, and an event
  that has been read is never changed.
* ``append`` names the number that it believes to be the last. When the log has moved on, somebody else
  writes there too, and the append fails as a whole (`FencedError`): two writers never interleave.
* An append is atomic: readers see all of its events or none.
* After `Done` nothing is accepted. A finished log is kept for the retention time and then forgotten.
* Position 0 is before the first event. Asking after a position that does not exist yet waits for it.
* Asking for a run that nobody keeps is `GoneError`: whether it ever existed is the database's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ragchat.events import Event, Header
from ragchat.logs.tail import Tail


class Log(Protocol):
    """Keeps the events of runs."""

    async def create(self, header: Header) -> None:
        """Begin an empty log.

        Raises:
            FencedError: the run has one already.
        """
        ...

    async def append(self, run_id: str, events: Sequence[Event], *, after: int) -> int:
        """Append ``events`` behind the number ``after`` and return the number of the last one.

        Raises:
            FencedError: the log's last number is not ``after``, or the log has ended.
            GoneError: there is no such log.
        """
        ...

    async def tail(self, run_id: str) -> Tail:
        """The run's events as this process sees them, to read from and to wait on.

        Raises:
            GoneError: there is no such log.
        """
        ...

    async def close(self) -> None:
        """Wake every reader for the last time and let go of everything."""
        ...
