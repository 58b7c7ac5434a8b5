"""Messages out of the bytes of an event stream, however these were cut. No I/O.

After the WHATWG's "Server-sent events" (https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream),
and as forgiving as the servers of models need: a line that is a JSON object counts as a message (NDJSON), a
line ``error: …`` counts as a message of the type ``error``, and a message that the end of the stream cuts off
before its empty line still counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

MAX_MESSAGE_BYTES: Final = 1024 * 1024
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Message(msgspec.Struct, frozen=True):
    """One message; ``data`` is UTF-8 as it came, ``event`` its type or empty."""

    data: bytes
    event: bytes = b""


class MessageTooLongError(Exception):
    """A line, or the lines of one message together, are longer than the reader accepts."""


class MessageReader:
    """Takes bytes in, gives messages out.

    Attributes:
        last_event_id: the ``id`` that the newest complete message had, or an earlier one; it is what a reader
            sends as ``Last-Event-ID`` to go on behind that message.
    """

    def __init__(self, max_bytes: int = MAX_MESSAGE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._line = bytearray()  # the unfinished one; appending in place keeps a dribbling server cheap
        self._after_cr = False
        self._first = True
        self.last_event_id = ""
        self._id = ""
        self._event = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, received: bytes) -> Iterator[Message]:
        """Yield the messages that ``received`` completes; it is taken in as far as this is iterated.

        Raises:
            MessageTooLongError: a line or a message exceeds the limit; the reader is of no use after that.
        """
        if self._after_cr or b"\r" in received:
            received = self._with_line_feeds(received)
        lines = received.split(b"\n")
        unfinished = lines.pop()
        if lines and (self._line or self._first):
            lines[0] = self._finished(lines[0])
        for line in lines:
            if line[:6] == b"data: ":  # what nearly all lines are
                self._append(line[6:])
            elif message := self._take(line) if line else self._dispatch():
                yield message
        if unfinished:
            self._line += unfinished
            self._check(len(self._line))

    def end(self) -> Iterator[Message]:
        """Yield what the end of the stream left unfinished."""
        return self.feed(b"\n\n")

    def _with_line_feeds(self, received: bytes) -> bytes:
        if not received:
            return received
        if self._after_cr:  # the second half of a CRLF ends no other line
            received = received.removeprefix(b"\n")
        self._after_cr = received.endswith(b"\r")
        return received.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _finished(self, end: bytes) -> bytes:
        line = bytes(self._line) + end
        self._line.clear()
        if self._first:
            self._first = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        return line

    def _take(self, line: bytes) -> Message | None:
        self._check(len(line))
        if line.startswith(b"{"):
            return Message(line)
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                self._append(value)
            case b"event":
                self._event = value
            case b"id":
                self._id = value.decode("utf-8", "replace")
            case b"error":
                return Message(value, event=b"error")
            case _:
                pass  # a comment, ``retry``, or a field that nobody knows
        return None

    def _append(self, value: bytes) -> None:
        self._data.append(value)
        self._size += len(value)
        self._check(self._size)

    def _dispatch(self) -> Message | None:
        self.last_event_id = self._id
        if not self._data:
            self._event = b""
            return None
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        event = self._event
        self._event, self._data, self._size = b"", [], 0
        return Message(data, event) if data else None

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise MessageTooLongError
