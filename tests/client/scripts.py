"""What a scripted service says: the bytes of frames, sockets and event streams."""

from __future__ import annotations

import json
import struct
from typing import Any

from ragchat.client import Answer

TOKEN = "ragchat-secret"
SESSION = "session"
MARKER = json.dumps({"code": 0, "message": "", "data": True})
UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def chunk(text: str, reference: dict[str, Any] | None = None) -> str:
    """A frame that brings ``text``."""
    data = {"answer": text, "reference": reference or {}, "id": "message", "session_id": SESSION}
    return json.dumps({"code": 0, "message": "", "data": data}, ensure_ascii=False)


def framed(*messages: str) -> bytes:
    """Each message as a WebSocket text frame of a server (RFC 6455, section 5.2)."""
    return b"".join(_frame(0x1, message.encode()) for message in messages)


def closing(code: int, reason: str) -> bytes:
    """A WebSocket close frame."""
    return _frame(0x8, struct.pack(">H", code) + reason.encode())


def _frame(opcode: int, payload: bytes) -> bytes:
    size = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + struct.pack(">H", len(payload))
    return bytes([0x80 | opcode]) + size + payload


def events(*messages: str, first: int = 1) -> bytes:
    """Each message as an event of the run ``run``, as the service sends it."""
    opening = f"retry: 2000\nid: run:{first - 1}\n\n"
    lines = [f"id: run:{seq}\ndata: {message}\n\n" for seq, message in enumerate(messages, first)]
    return (opening + "".join(lines)).encode()


def refused(status: int) -> bytes:
    """A response that denies a request, as a proxy writes it."""
    body = b"<html>No.</html>"
    head = f"HTTP/1.1 {status} No\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def pieces(answer: Answer) -> list[str]:
    """All that comes until the end."""
    return [text async for text in answer]
