"""What reading a model's stream costs: ragchat's backend beside other ways of doing it.

    python benchmarks/backend.py [--streams 100] [--chunks 300] [--rounds 4]

A server in a process of its own sends every stream one chunk per tick, as a model would. The reader's CPU
time (user and system) per chunk is measured, each row in turn, several rounds, and the medians are set in
relation to the best transport there is, aiohttp itself with the tightest decoding. Use the ratios: the
microseconds belong to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from multiprocessing.connection import Connection
from typing import cast

import aiohttp
import httpx
import msgspec
import uvloop
from httpx_aiohttp import AiohttpTransport

from ragchat.backends.contract import Prompt, Turn
from ragchat.backends.openai import OpenAIBackend
from ragchat.events import Token

TICK = 0.01
WORD = " word"
QUESTION = json.dumps({"model": "m", "messages": [{"role": "user", "content": "q"}], "stream": True}).encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    """One chunk of a completion as OpenAI sends it, framed for HTTP."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    document = {
        "id": "chatcmpl-AbCdEfGhIjKlMnOpQrStUvWxYz012",
        "object": "chat.completion.chunk",
        "created": 1767225600,
        "model": "m",
        "system_fingerprint": "fp_0123456789",
        "choices": [choice],
    }
    return framed(b"data: %b\n\n" % json.dumps(document).encode())


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


END = chunk({}, "stop") + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Model(asyncio.Protocol):
    """Collects the streams of one row; when all are there it plays them in step."""

    waiting: list[asyncio.Transport]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"}"):
            self.waiting.append(self.transport)


async def play(waiting: list[asyncio.Transport], streams: int, chunks: int) -> None:
    while len(waiting) < streams:
        await asyncio.sleep(TICK)
    transports = waiting[:streams]
    del waiting[:streams]
    for transport in transports:
        transport.write(HEAD)
    for _ in range(chunks):
        await asyncio.sleep(TICK)
        for transport in transports:
            transport.write(chunk({"content": WORD}))
    for transport in transports:
        transport.write(END)


async def serve(pipe: Connection, streams: int, chunks: int) -> None:
    Model.waiting = []
    server = await asyncio.get_running_loop().create_server(Model, "127.0.0.1", 0, backlog=streams)
    pipe.send(server.sockets[0].getsockname()[1])
    while True:
        await play(Model.waiting, streams, chunks)


def run_server(pipe: Connection, streams: int, chunks: int) -> None:
    uvloop.run(serve(pipe, streams, chunks))


Read = Callable[[], Awaitable[int]]
"""Asks one question, reads the answer and returns how many words it has."""


@asynccontextmanager
async def httpx_lines(base_url: str) -> AsyncIterator[Read]:
    async def read() -> int:
        words = 0
        async with client.stream("POST", f"{base_url}/chat/completions", content=QUESTION) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    words += json.loads(line[6:])["choices"][0]["delta"].get("content") == WORD
        return words

    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=None) as client:
        yield read


class Delta(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    delta: Delta


class Chunk(msgspec.Struct):
    choices: list[Choice]


decode = msgspec.json.Decoder(Chunk).decode


class Words:
    """The tightest decoding of a well-behaved stream: it counts words, and forgives nothing."""

    def __init__(self) -> None:
        self.count = 0
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *messages, self._rest = (self._rest + data).split(b"\n\n")
        for message in messages:
            if message != b"data: [DONE]":
                self.count += decode(message[6:]).choices[0].delta.content == WORD


@asynccontextmanager
async def httpx_bytes(base_url: str, transport: httpx.AsyncBaseTransport | None = None) -> AsyncIterator[Read]:
    async def read() -> int:
        words = Words()
        async with client.stream("POST", f"{base_url}/chat/completions", content=QUESTION) as response:
            async for data in response.aiter_raw():
                words.feed(data)
        return words.count

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=None, transport=transport) as client:
        yield read


@asynccontextmanager
async def httpx_over_aiohttp(base_url: str) -> AsyncIterator[Read]:
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    async with httpx_bytes(base_url, AiohttpTransport(client=session)) as read:
        yield read


@asynccontextmanager
async def aiohttp_itself(base_url: str) -> AsyncIterator[Read]:
    async def read() -> int:
        words = Words()
        async with session.post(f"{base_url}/chat/completions", data=QUESTION) as response:
            async for data in response.content.iter_any():
                words.feed(data)
        return words.count

    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield read


@asynccontextmanager
async def ragchat_backend(base_url: str) -> AsyncIterator[Read]:
    prompt = Prompt(question="q", turns=(Turn("user", "q"),))

    async def read() -> int:
        words = 0
        async for piece in backend.answer(prompt):
            words += type(piece) is Token
        return words

    backend = OpenAIBackend(base_url, model="m")
    try:
        yield read
    finally:
        await backend.close()


ROWS: dict[str, Callable[[str], AbstractAsyncContextManager[Read]]] = {
    "httpx, aiter_lines + json": httpx_lines,
    "httpx, raw bytes": httpx_bytes,
    "httpx over aiohttp, raw bytes": httpx_over_aiohttp,
    "aiohttp itself, raw bytes": aiohttp_itself,
    "ragchat": ragchat_backend,
}
BEST = "aiohttp itself, raw bytes"


async def measure(name: str, base_url: str, streams: int, chunks: int) -> float:
    """CPU microseconds of this process per chunk."""
    async with ROWS[name](base_url) as read:
        before = time.process_time()
        words = sum(await asyncio.gather(*(read() for _ in range(streams))))
        spent = time.process_time() - before
    if words != streams * chunks:
        raise SystemExit(f"{name}: {words} words of {streams * chunks}")
    return spent / words * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--chunks", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    arguments = (theirs, options.streams, options.chunks)
    server = multiprocessing.get_context("spawn").Process(target=run_server, args=arguments, daemon=True)
    server.start()
    base_url = f"http://127.0.0.1:{ours.recv()}/v1"
    costs: dict[str, list[float]] = {name: [] for name in ROWS}
    for _ in range(options.rounds):
        for name in ROWS:
            costs[name].append(uvloop.run(measure(name, base_url, options.streams, options.chunks)))
    server.terminate()
    server.join()
    best = statistics.median(costs[BEST])
    print(f"{options.streams} streams x {options.chunks} chunks, medians of {options.rounds} rounds, uvloop")
    for name, row in costs.items():
        median = statistics.median(row)
        print(f"{name:32} {median:7.1f} us a chunk   {median / best:5.2f} x")


if __name__ == "__main__":
    main()
