"""What delivering a token costs: ragchat beside loops that send the very same frames.

    python benchmarks/streaming.py [--quick]

Every server runs in a process of its own on one core, all clients in this process on another one, and the model
is the same for all (benchmarks/peers.py). Cost is the CPU time of the server's process, user and system, while
tokens come at a pace that one core carries with ease: about 5,000 a second in all, each in a frame of its own.
Then the model stops pausing, and what arrives per second is the throughput. Rows are measured in turn, in several
rounds, and compared within each round; medians are shown. Use the ratios: microseconds belong to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import platform
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple, cast

import peers
import uvloop
from peers import Plan

RAGCHAT, QUART, FASTAPI, QUEUES = peers.SERVERS
PACE: Final = 5000
"""Tokens a second for all clients together."""
FASTEST: Final = 0.002
"""Seconds between two reads of one client at least: event loops count in milliseconds."""
FLOOD: Final = 10_000
"""Tokens for all clients together that come without a pause."""
BURST: Final = 16
VIEWED_PACE: Final = 50
PATIENCE: Final = 60
HANDSHAKES: Final = 50
"""Clients that connect at the same time."""
FULL: Final = {"rounds": 3, "seconds": 1.0, "clients": [1, 100, 1000], "viewers": 2000, "view_seconds": 5.0}
QUICK: Final = {"rounds": 1, "seconds": 0.3, "clients": [1, 50, 200], "viewers": 300, "view_seconds": 1.0}

_QUESTION: Final = b'{"chat_id":"default","question":"?"}'
_TOKEN: Final = re.compile(rb"@(\d+) ")


class Server:
    """One of `peers.SERVERS`, in a process of its own."""

    def __init__(self, name: str, folder: Path, core: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=peers.run, args=(name, theirs, folder, core), daemon=True)
        self._process.start()
        theirs.close()
        self.name = name
        self.port = self._port()
        self._clock = ~(self._process.pid or 0) << 3 | 2  # on Linux: what clock_getcpuclockid(3) returns

    def _port(self) -> int:
        try:
            if self._pipe.poll(PATIENCE):
                return int(self._pipe.recv())
        except EOFError:
            pass
        raise SystemExit(f"{self.name} does not start")

    def cpu(self) -> float:
        """Seconds of CPU, user and system, that the process has used."""
        return time.clock_gettime(self._clock)

    def play(self, plan: Plan) -> None:
        """Let the model speak."""
        self._pipe.send(plan)

    async def rest(self) -> None:
        """Wait until the server has nothing more to do."""
        before = -1.0
        while (now := self.cpu()) - before > 0.001:
            before = now
            await asyncio.sleep(0.05)

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()


class Reading(NamedTuple):
    cpu: float
    time: float
    tokens: int
    frames: int


class Crowd:
    """What all clients of a server have received together."""

    def __init__(self, server: Server) -> None:
        self.delays: list[float] = []
        self._server = server
        self._tokens = 0
        self._frames = 0
        self._goal = 0
        self._reading: asyncio.Future[Reading] = asyncio.get_running_loop().create_future()

    async def reach(self, tokens: int) -> Reading:
        """Wait for ``tokens`` in all.

        Raises:
            ConnectionError: one of the clients gets no more.
        """
        if not self._reading.done():
            self._goal = tokens
            self._look()
        reading = await self._reading
        self._reading = asyncio.get_running_loop().create_future()
        return reading

    def read(self) -> Reading:
        """Where the server and its clients are now."""
        return Reading(self._server.cpu(), time.monotonic(), self._tokens, self._frames)

    def receive(self, dues: Sequence[bytes]) -> None:
        """A frame came with tokens that were due at ``dues``."""
        now = time.monotonic_ns()
        self.delays += [(now - int(due)) / 1e9 for due in dues]
        self._frames += 1
        self._tokens += len(dues)
        self._look()

    def fail(self, reason: str) -> None:
        if not self._reading.done():
            self._reading.set_exception(ConnectionError(f"{self._server.name}: {reason}"))

    def _look(self) -> None:
        if 0 < self._goal <= self._tokens and not self._reading.done():
            self._reading.set_result(self.read())
            self._goal = 0


class Client(asyncio.Protocol):
    """A client that costs as little as possible."""

    def __init__(self, crowd: Crowd, request: bytes) -> None:
        self._crowd = crowd
        self._request = request
        self._rest = b""
        self._ended = False
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if not self.opened.done():
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = head
                return
            self.opened.set_result(None)
            self.ask(self._transport)
        frames, self._rest = self.split(data)
        for frame in frames:
            if dues := _TOKEN.findall(frame):
                self._crowd.receive(dues)
            elif frame.endswith(b'"data":true}'):
                self._ended = True
                self._transport.close()

    def ask(self, transport: asyncio.Transport) -> None:
        """Send what comes after the request's header."""

    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        """The frames that are complete in ``data``, and the rest."""
        raise NotImplementedError

    def connection_lost(self, error: Exception | None) -> None:
        self.opened.cancel()
        if not self._ended:
            self._crowd.fail(f"a connection ended too early: {error or self._rest!r}")


class SocketClient(Client):
    """A WebSocket (RFC 6455)."""

    def ask(self, transport: asyncio.Transport) -> None:
        mask = bytes(4)
        transport.write(bytes((0x81, 0x80 | len(_QUESTION))) + mask + _QUESTION)

    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        texts, start = [], 0
        while len(data) >= start + 4:
            size, begin = data[start + 1], start + 2
            if size == 126:
                size, begin = int.from_bytes(data[start + 2 : start + 4], "big"), start + 4
            if len(data) < begin + size:
                break
            texts.append(data[begin : begin + size])
            start = begin + size
        return texts, data[start:]


class EventsClient(Client):
    """An event stream; what HTTP's chunks put between the events is no harm."""

    def split(self, data: bytes) -> tuple[list[bytes], bytes]:
        *events, rest = data.split(b"\n\n")
        return events, rest


TRANSPORTS: Final[dict[str, tuple[type[Client], bytes]]] = {
    "WebSocket": (
        SocketClient,
        b"GET %b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        % peers.SOCKET.encode(),
    ),
    "SSE": (
        EventsClient,
        b"GET %b?chat_id=default&question=? HTTP/1.1\r\nHost: localhost\r\n\r\n" % peers.EVENTS.encode(),
    ),
}


async def connect(server: Server, crowd: Crowd, kind: type[Client], request: bytes, clients: int) -> None:
    """Connect ``clients``, and wait until each of them has its first token and the server is at rest."""
    places = asyncio.Semaphore(HANDSHAKES)
    loop = asyncio.get_running_loop()

    async def one() -> None:
        async with places:
            _, client = await loop.create_connection(lambda: kind(crowd, request), "127.0.0.1", server.port)
            await client.opened  # or a server's backlog would overflow, and connecting take seconds

    await asyncio.gather(*(one() for _ in range(clients)))
    await crowd.reach(clients)
    await server.rest()
    crowd.delays.clear()


class Delivery(NamedTuple):
    cost: float
    """Microseconds of the server's CPU per token, at a pace."""
    joined: float
    """Tokens per frame, at a pace."""
    throughput: float
    """Tokens a second without a pace."""


async def deliver(server: Server, transport: str, clients: int, plan: Plan) -> Delivery:
    """Each client asks a question of its own, and gets an answer of its own."""
    async with asyncio.timeout(PATIENCE):
        crowd = Crowd(server)
        await connect(server, crowd, *TRANSPORTS[transport], clients)
        start = crowd.read()
        server.play(plan)
        paced = await crowd.reach(clients * plan.paced)
        flooding = await crowd.reach(clients * plan.paced + 1)
        end = await crowd.reach(clients * plan.total)
        await server.rest()
    tokens = paced.tokens - start.tokens
    return Delivery(
        (paced.cpu - start.cpu) / tokens * 1e6,
        tokens / (paced.frames - start.frames),
        (end.tokens - flooding.tokens) / (end.time - flooding.time),
    )


class View(NamedTuple):
    cost: float
    joined: float
    p50: float
    p99: float


async def view(server: Server, viewers: int, plan: Plan) -> View:
    """All clients view the answer to one question, from its beginning, as an EventSource does that reconnects."""
    async with asyncio.timeout(PATIENCE):
        _, request = TRANSPORTS["SSE"]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request)
        begun = await reader.readuntil(b"@0 ")
        cursor = b"Last-Event-ID: %b\r\n\r\n" % begun.partition(b"\nid: ")[2].partition(b"\n")[0]
        writer.close()
        crowd = Crowd(server)
        await connect(server, crowd, EventsClient, request[:-2] + cursor, viewers)
        start = crowd.read()
        server.play(plan)
        end = await crowd.reach(viewers * plan.paced)
        await server.rest()
    tokens = end.tokens - start.tokens
    delays = sorted(crowd.delays)
    return View(
        (end.cpu - start.cpu) / tokens * 1e6,
        tokens / (end.frames - start.frames),
        delays[len(delays) // 2],
        delays[len(delays) * 99 // 100],
    )


def paced(clients: int, seconds: float, burst: int = 1) -> Plan:
    """Tokens at `PACE`, or four times that when they come in bursts, which are cheaper to send."""
    pace = PACE if burst == 1 else 4 * PACE
    interval = max(FASTEST, clients * burst / pace)
    return Plan(interval, burst, max(1, round(seconds / interval)), max(1, FLOOD // clients // burst))


@contextmanager
def servers(names: Sequence[str]) -> Iterator[list[Server]]:
    """The servers on one core, and us on another one."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:1])
    with ExitStack() as stack:
        running = []
        for name in names:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            running.append(Server(name, folder, cores[-1]))
            stack.callback(running[-1].stop)
        yield running


def compare_deliveries(
    title: str, running: Sequence[Server], crowds: Sequence[int], options: argparse.Namespace, burst: int = 1
) -> None:
    """Print what it costs to send each client an answer of its own."""
    print(f"\n{title}")
    print("transport  clients  server              us/token     x  tokens/frame  tokens/s     x")
    bare = [server.name for server in running].index(QUART)
    for transport in TRANSPORTS:
        for clients in crowds:
            plan = paced(clients, options.seconds, burst)
            rounds = [
                [uvloop.run(deliver(server, transport, clients, plan)) for server in running]
                for _ in range(options.rounds)
            ]
            for number, server in enumerate(running):
                cost = statistics.median(row[number].cost for row in rounds)
                dearer = statistics.median(row[number].cost / row[bare].cost for row in rounds)
                joined = statistics.median(row[number].joined for row in rounds)
                throughput = statistics.median(row[number].throughput for row in rounds)
                faster = statistics.median(row[number].throughput / row[bare].throughput for row in rounds)
                print(
                    f"{transport:9}  {clients:7}  {server.name:18}  {cost:8.1f}  {dearer:4.2f}"
                    f"  {joined:12.1f}  {throughput:8.0f}  {faster:4.2f}",
                    flush=True,
                )


def compare_views(running: Sequence[Server], options: argparse.Namespace) -> None:
    """Print how late the tokens of one answer reach its many viewers."""
    plan = Plan(1 / VIEWED_PACE, 1, max(1, round(options.view_seconds * VIEWED_PACE)), 0)
    print(f"\n{options.viewers} viewers of one answer, {VIEWED_PACE} tokens/s for {options.view_seconds} s, SSE")
    print("server              p50 s   p99 s  us/token  tokens/frame")
    for server in running:
        row = uvloop.run(view(server, options.viewers, plan))
        print(f"{server.name:18}  {row.p50:5.2f}  {row.p99:6.2f}  {row.cost:8.1f}  {row.joined:12.1f}", flush=True)


def describe() -> str:
    """The interpreter and the versions that matter."""
    names = ("quart", "hypercorn", "fastapi", "uvicorn", "uvloop", "h11", "httptools", "wsproto", "websockets")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{platform.python_implementation()} {platform.python_version()}, {versions}"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round, for a first impression")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="how long tokens come at a pace, in each measurement")
    parser.add_argument("--clients", type=int, nargs="+")
    parser.add_argument("--viewers", type=int)
    parser.add_argument("--view-seconds", type=float, help="how long the viewed answer takes")
    options = parser.parse_args()
    defaults = QUICK if options.quick else FULL
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> None:
    options = parse()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(describe())
    print(f"medians of {options.rounds} rounds; x: in relation to {QUART}")
    with servers([RAGCHAT, QUART, FASTAPI, QUEUES]) as (ragchat, quart, fastapi, queues):
        compare_deliveries("Token by token", (ragchat, quart, fastapi), options.clients, options)
        title = f"{BURST} tokens per read of the model"
        compare_deliveries(title, (ragchat, quart, fastapi), options.clients[1:2], options, BURST)
        compare_views((ragchat, queues), options)


if __name__ == "__main__":
    main()
