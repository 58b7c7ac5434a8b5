"""A proxy between a client and a service: it refuses WebSockets, and cuts responses where it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.client.scripts import refused


class Relay:
    """Relays to ``url``.

    Args:
        cuts: after how many bytes the first answer is cut, the second one, and so on; later ones are whole.

    Attributes:
        cut: how many answers were.
    """

    def __init__(self, url: str, cuts: Iterable[int] = ()) -> None:
        target = urlsplit(url)
        self._target = (target.hostname, target.port)
        self._cuts = list(cuts)
        self.cut = 0
        self._talks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.create_task(self._talk(reader, writer))
        self._talks.add(talk)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"upgrade: websocket" in head.lower():
            writer.write(refused(426))
            writer.close()
            return
        there, back = await asyncio.open_connection(*self._target)
        back.write(head)
        sending = asyncio.create_task(_copy(reader, back))
        left = self._cuts.pop(0) if self._cuts and b"/completion" in head else None
        try:
            while left != 0 and (data := await there.read(left or 65536)):
                writer.write(data)
                await writer.drain()
                left = None if left is None else left - len(data)
            self.cut += left == 0
        finally:
            sending.cancel()
            writer.close()
            back.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
