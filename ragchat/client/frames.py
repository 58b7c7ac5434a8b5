"""The frames of codec ``ragflow`` as a client reads them (docs/protocol.md, "Codec ragflow")."""

from __future__ import annotations

from typing import Any

import msgspec

from ragchat.client.errors import ChatError, NetworkError


class Chunk(msgspec.Struct, frozen=True):
    """A piece of an answer. ``answer`` is appended to the text, or becomes it with ``replace``."""

    answer: str = ""
    reference: dict[str, Any] | list[Any] = {}
    session_id: str = ""
    replace: bool = False


class Frame(msgspec.Struct, frozen=True):
    """One message of the service. ``data`` is True in the marker that ends an answer."""

    code: int
    message: str
    data: Chunk | bool

    @property
    def last(self) -> bool:
        """Whether nothing that matters comes after it."""
        return self.code != 0 or self.data is True


_decoder = msgspec.json.Decoder(Frame)


def parse(data: str | bytes, where: str) -> Frame:
    """A frame from its JSON.

    Raises:
        NetworkError: it is none, so something else than ragchat answers at ``where``.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NetworkError(f"{where} sent something that is no answer ({error}). Is the address right?") from error


def denial(status: int, body: bytes, where: str) -> ChatError:
    """The error in a response that is not a success: the service's own, or a proxy's in our words."""
    try:
        frame = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ChatError(status, f"{where} answered with HTTP {status}. Is the address right, and the service up?")
    return ChatError(frame.code, frame.message)
