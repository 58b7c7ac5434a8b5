"""What a client sends, read strictly: bytes in, a typed message or a sentence that helps out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from werkzeug.datastructures import MultiDict

from ragchat.errors import RequestError, TooLargeError
from ragchat.runs.chat import Ask

_LISTS: Final = ("kb_ids", "doc_ids", "files")
_FIELDS: Final = frozenset(Ask.__struct_fields__)
MAX_IDS: Final = 256
"""Ids in one list: what a search is narrowed to costs time for each."""
MESSAGE_TYPES: Final = ("chat", "cancel", "ping")


def parse_object(text: str | bytes, limit: int) -> dict[str, Any]:
    """A JSON object (RFC 8259) of at most ``limit`` bytes.

    Raises:
        TooLargeError: it is longer.
        RequestError: it is not JSON, or no object.
    """
    try:
        data = text.encode() if isinstance(text, str) else text
    except UnicodeEncodeError:
        raise RequestError("The message is not valid UTF-8.") from None
    if len(data) > limit:
        raise TooLargeError(f"The message has {len(data)} bytes; at most {limit} are accepted. Send less at once.")
    try:
        value = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
    except UnicodeDecodeError:
        raise RequestError("The message is not valid UTF-8.") from None
    except msgspec.DecodeError as error:
        raise RequestError(f"The message is not valid JSON: {error}.") from None
    except RecursionError:
        raise RequestError("The message is nested too deeply.") from None
    if not isinstance(value, dict):
        raise RequestError('The message must be a JSON object such as {"chat_id": "default", "question": "…"}.')
    return value


def parse_ask(fields: Mapping[str, Any]) -> Ask:
    """The question in a JSON object; fields that nobody knows, and optional ones that are empty, are ignored.

    Raises:
        RequestError: a field is missing, of the wrong type, or a list with too many ids.
    """
    known = {name: value for name, value in fields.items() if name in _FIELDS and value is not None}
    for name in _LISTS:
        if isinstance(known.get(name), str):
            known[name] = [part.strip() for part in known[name].split(",") if part.strip()]
        if isinstance(known.get(name), list) and len(known[name]) > MAX_IDS:
            raise RequestError(f"The list `{name}` has {len(known[name])} ids; at most {MAX_IDS} are accepted.")
    for name in (*_LISTS, "session_id"):
        if known.get(name) in ("", []):
            del known[name]
    for name in ("chat_id", "question"):
        if name not in known:
            raise RequestError(f"The field `{name}` is missing.")
    try:
        return msgspec.convert(known, Ask)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at ")
        where = path.strip("`").removeprefix("$.")
        raise RequestError(
            f"The field `{where}` is not as it should be: {problem[:1].lower()}{problem[1:]}."
        ) from None


def ask_fields(arguments: MultiDict[str, str]) -> dict[str, Any]:
    """Query parameters as the fields of a question; lists may be repeated or separated by commas.

    Raises:
        RequestError: ``stream`` is neither true nor false.
    """
    fields: dict[str, Any] = {name: arguments[name] for name in arguments if name in _FIELDS}
    for name in _LISTS:
        if name in fields:
            fields[name] = ",".join(arguments.getlist(name))
    if "stream" in fields:
        known = {"true": True, "1": True, "false": False, "0": False}
        if fields["stream"].lower() not in known:
            raise RequestError("The parameter `stream` must be true or false.")
        fields["stream"] = known[fields["stream"].lower()]
    return fields
