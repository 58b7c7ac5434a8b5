"""The server: Hypercorn's protocols under a life cycle of our own. No other module knows Hypercorn.

Hypercorn speaks HTTP and WebSocket; this module listens, starts and ends. Hypercorn's own `serve` can't be
used for that: on Python 3.12 and later it waits for ever for an open stream, nothing in it limits how long a
peer may refuse to read, and an error of the application's start-up reaches us as text only.

How it ends, after SIGTERM or SIGINT:

    drain      the application ends its runs and says goodbye; new connections are still served meanwhile,
               because a client that polls or reconnects wants the rest of its answer
    finish     nobody new is let in; who is being answered gets a moment for the last bytes
    abort      what is left is cut: a peer that does not read can't be closed in any other way
    shutdown   the application closes its database and its clients

A second signal goes to "abort" at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import ssl
import tomllib
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

import h11
import structlog
import uvloop
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.asyncio.worker_context import EventWrapper, WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.protocol import ws_stream
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ASGIFramework
from pydantic import BaseModel, ValidationError
from quart import Quart
from wsproto.events import Message
from wsproto.extensions import Extension

from ragchat.errors import ConfigurationError
from ragchat.settings import Settings
from ragchat.telemetry.logs import AccessLog, Application

logger = structlog.get_logger(__name__)

CONFIG_FILE: Final = Path("hypercorn.toml")
_MOMENT: Final = 1.0
"""Seconds for things that take milliseconds unless something is wrong."""
_SHUTDOWN: Final = 10.0
"""Seconds the application gets to close what it opened."""


class Stop:
    """How a server is asked to end: called once, gently; called again, at once."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.insisted = asyncio.Event()

    def __call__(self) -> None:
        (self.insisted if self.requested.is_set() else self.requested).set()


def run(
    app: Quart,
    settings: Settings,
    *,
    drain: Callable[[], Awaitable[None]],
    ready: Callable[[str], None] | None = None,
    stopping: Callable[[], None] | None = None,
) -> None:
    """Serve ``app`` on uvloop until SIGTERM or SIGINT. See `serve`."""

    async def until_signalled() -> None:
        stop = Stop()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        await serve(app, settings, stop=stop, drain=drain, ready=ready, stopping=stopping)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_signalled())


async def serve(
    app: Quart,
    settings: Settings,
    *,
    stop: Stop,
    drain: Callable[[], Awaitable[None]],
    ready: Callable[[str], None] | None = None,
    stopping: Callable[[], None] | None = None,
) -> None:
    """Serve ``app`` until ``stop`` is called.

    Args:
        app: what to serve; its start-up and shutdown functions are run.
        settings: where to listen, and the limits of connections. A `hypercorn.toml` in the working directory
            adds what has no setting here, such as certificates.
        stop: ends the server.
        drain: ends what the application is doing and tells its clients. Gets ``settings.drain_timeout`` and
            a moment more.
        ready: told the address, once connections are accepted.
        stopping: told when the ending begins.

    Raises:
        ConfigurationError: it can't listen there, or `hypercorn.toml` does not make sense. Also whatever the
            start-up of ``app`` raises.
    """
    _harden_hypercorn()
    config = read_config(settings)
    certificate = _certificate(config)
    with listen(settings.host, settings.port, config.backlog) as listener:
        await app.startup()
        connections = _Connections(app, config)
        sweeper = asyncio.create_task(connections.drop_stalled(settings.send_timeout))
        try:
            await connections.accept(listener, certificate)
            if ready is not None:
                ready(_url(listener, secure=certificate is not None))
            await stop.requested.wait()
            if stopping is not None:
                stopping()
            await _first_of(_end(connections, drain, settings.drain_timeout), stop.insisted.wait())
        finally:
            sweeper.cancel()
            await connections.abort()
            await _bounded("shutdown", app.shutdown(), _SHUTDOWN)


async def _end(connections: _Connections, drain: Callable[[], Awaitable[None]], seconds: float) -> None:
    await _bounded("drain", drain(), seconds + _MOMENT)
    await connections.finish(_MOMENT)


async def _bounded(step: str, work: Awaitable[None], seconds: float) -> None:
    """Do a step of the ending; whatever happens in it, the next one follows."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        logger.warning("ending goes on without waiting any longer", step=step, seconds=seconds)
    except Exception:
        logger.exception("ending goes on after a failure", step=step)


async def _first_of(*works: Awaitable[object]) -> None:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


class _Context(WorkerContext):
    """What Hypercorn's parts of one connection share."""

    def __init__(self, terminated: EventWrapper) -> None:
        super().__init__(max_requests=None)
        self.terminated = terminated
        self.peer_gone = asyncio.Event()

    async def sleep(self, wait: float) -> None:  # type: ignore[override]
        """Sleep between two pings, but not longer than there is somebody to ping."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.peer_gone.wait(), wait)


class _Connection(TCPServer):
    """Hypercorn's connection, which can be told that its peer does not read."""

    context: _Context

    def __init__(
        self,
        app: ASGIWrapper,
        config: Config,
        context: _Context,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(app, loop, config, context, {}, reader, writer)
        self._reading: asyncio.Task[None] | None = None
        self._ending = False
        self._unread = 0
        self._reading_since = loop.time()

    def silence(self) -> float:
        """For how many seconds the peer has read nothing although something waits for it."""
        unread = self.writer.transport.get_write_buffer_size()
        if unread == 0 or unread < self._unread:
            self._reading_since = self.loop.time()
        self._unread = unread
        return self.loop.time() - self._reading_since

    def abort(self) -> None:
        """Let go of the peer, whatever is still unsent."""
        self.writer.transport.abort()

    async def _read_data(self) -> None:
        self._reading = asyncio.current_task()
        with contextlib.suppress(OSError):  # a reset, also one within TLS
            while data := await self.reader.read(MAX_RECV):
                if not self._ending:
                    await self.protocol.handle(RawData(data))
        await self.protocol.handle(Closed())
        self.context.peer_gone.set()

    async def _close(self) -> None:
        try:
            await self._hear_out()
        finally:
            await super()._close()

    async def _hear_out(self) -> None:
        """End our side, and drop what the peer still sends until it ends its own, or for a moment.

        Closing on unread bytes resets the connection, and a reset takes our last words with it: the reason for
        which a socket is closed, or a body is refused.
        """
        self._ending = True
        if self.context.peer_gone.is_set() or not self.writer.can_write_eof():
            return
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            self.writer.write_eof()
            async with asyncio.timeout(_MOMENT):
                if asyncio.current_task() is self._reading:
                    while await self.reader.read(MAX_RECV):
                        pass
                else:
                    await self.context.peer_gone.wait()


class _Connections:
    """Accepts connections, and keeps those that are open, so that they can be ended from outside."""

    def __init__(self, app: Quart, config: Config) -> None:
        logged = AccessLog(cast(Application, app))
        self._app = ASGIWrapper(cast(ASGIFramework, logged))
        self._config = config
        self._terminated = EventWrapper()
        self._open: dict[asyncio.Task[None], _Connection] = {}
        self._acceptor: asyncio.Server | None = None

    async def accept(self, listener: socket.socket, certificate: ssl.SSLContext | None) -> None:
        """Let peers in from now on."""
        self._acceptor = await asyncio.start_server(
            self._serve, sock=listener, backlog=self._config.backlog, ssl=certificate
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak with one peer until it or we have had enough."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # start_server makes one per connection
        connection = _Connection(self._app, self._config, _Context(self._terminated), reader, writer)
        self._open[task] = connection
        try:
            await connection.run()
        except asyncio.CancelledError:
            pass  # by `abort`; Python 3.12 reports a cancelled task of start_server as an error
        except OSError:
            pass  # the peer left while we closed
        except Exception as error:
            # Errors of the application were logged and answered below us. What comes up here is a peer that
            # broke the protocol, or left in the middle of it.
            logger.info("connection dropped", reason=_reason(error))
            connection.abort()
        finally:
            del self._open[task]

    async def drop_stalled(self, seconds: float) -> None:
        """From now on, abort connections whose peer has read nothing for ``seconds``.

        Looking at what is still unsent costs nothing per frame, and catches a peer in whatever we wait for
        it: a send, the end of a response, or a close.
        """
        while True:
            await asyncio.sleep(seconds / 10)
            for connection in list(self._open.values()):
                if connection.silence() > seconds:
                    connection.abort()

    async def finish(self, seconds: float) -> None:
        """Let nobody new in, and everybody else out when they have been answered; wait at most ``seconds``."""
        self._close_door()
        await self._terminated.set()
        await self._wait(seconds)

    async def abort(self) -> None:
        """Let nobody new in, and cut what is left."""
        self._close_door()
        for connection in self._open.values():
            connection.abort()
        await self._wait(_MOMENT)
        for task in self._open:
            task.cancel()

    def _close_door(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()

    async def _wait(self, seconds: float) -> None:
        if self._open:
            await asyncio.wait(set(self._open), timeout=seconds)


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigurationError: the address can't be had; says which setting to change.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(
            (host, port), family=family, backlog=backlog, dualstack_ipv6=family is socket.AF_INET6
        )
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(_explain(error, host, port)) from error


def _explain(error: OSError | UnicodeError, host: str, port: int) -> str:
    reason = getattr(error, "strerror", None) or error
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return (
            f"RAGCHAT_PORT={port}: another program listens on {host}:{port} already. "
            "Stop it, or choose another port with --port (0 takes a free one)."
        )
    if number == errno.EACCES:
        return (
            f"RAGCHAT_PORT={port}: this user may not listen on it. "
            "Choose a port above 1023 with --port, or let a proxy listen on this one."
        )
    return (
        f"RAGCHAT_HOST={host!r}: this machine can't listen there ({reason}). "
        "Use 127.0.0.1 for this machine only, 0.0.0.0 for every network, or an address of this machine."
    )


def _url(listener: socket.socket, *, secure: bool) -> str:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"{'https' if secure else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


class _FileSettings(BaseModel, extra="forbid", strict=True):
    """The settings of Hypercorn that have an effect here. Those left out have none, or are ragchat's."""

    backlog: int = Config.backlog
    certfile: str | None = Config.certfile
    ciphers: str = Config.ciphers
    h11_max_incomplete_size: int = Config.h11_max_incomplete_size
    include_date_header: bool = Config.include_date_header
    include_server_header: bool = Config.include_server_header
    keep_alive_max_requests: int = Config.keep_alive_max_requests
    keep_alive_timeout: float = Config.keep_alive_timeout
    keyfile: str | None = Config.keyfile
    keyfile_password: str | None = Config.keyfile_password
    root_path: str = ""


_OURS: Final = {
    "bind": "RAGCHAT_HOST and RAGCHAT_PORT",
    "graceful_timeout": "RAGCHAT_DRAIN_TIMEOUT",
    "loglevel": "RAGCHAT_LOG_LEVEL",
    "websocket_max_message_size": "RAGCHAT_MAX_MESSAGE_BYTES",
    "websocket_ping_interval": "RAGCHAT_HEARTBEAT",
}


def read_config(settings: Settings, file: Path = CONFIG_FILE) -> Config:
    """Hypercorn's configuration from ``settings``, and from ``file`` if there is one.

    Raises:
        ConfigurationError: ``file`` has a setting that is unknown or without effect, or a value that does not
            make sense. Hypercorn itself would ignore both.
    """
    config = Config()
    for name, value in _read_file(file):
        setattr(config, name, value)
    if bool(config.certfile) != bool(config.keyfile):
        raise ConfigurationError(f"{file}: HTTPS needs both `certfile` and `keyfile`; only one of them is set.")
    config.alpn_protocols = ["http/1.1"]
    config.websocket_max_message_size = settings.max_message_bytes
    config.websocket_ping_interval = settings.heartbeat
    config.errorlog = logging.getLogger("hypercorn.error")
    return config


def _read_file(file: Path) -> _FileSettings:
    try:
        return _FileSettings.model_validate(tomllib.loads(file.read_text("utf-8")))
    except FileNotFoundError:
        return _FileSettings()
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise ConfigurationError(f"{file}: {_explain_setting(str(problem['loc'][0]), problem['msg'])}") from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{file}: can't be read: {error}") from error


def _explain_setting(name: str, message: str) -> str:
    if name in _OURS:
        return f"`{name}` has no effect; set {_OURS[name]} instead."
    if name not in _FileSettings.model_fields:
        return f"`{name}` is unknown or has no effect. What can be set: {', '.join(_FileSettings.model_fields)}."
    return f"`{name}`: {message[:1].lower()}{message[1:]}."


def _certificate(config: Config) -> ssl.SSLContext | None:
    try:
        return config.create_ssl_context()
    except OSError as error:
        raise ConfigurationError(f"{CONFIG_FILE}: can't use the certificate {config.certfile}: {error}") from error


def _harden_hypercorn() -> None:
    """Take away from Hypercorn what a stranger could use against us and no setting switches off."""
    ws_stream.server_extensions_handshake = _no_extensions  # type: ignore[attr-defined]
    ws_stream.WebsocketBuffer = _BoundedBuffer  # type: ignore[misc]
    ws_stream.WSStream._send_error_response = _refuse_socket  # type: ignore[method-assign]
    H11Protocol._check_protocol = _check_request  # type: ignore[method-assign]


def _no_extensions(requested: Iterable[str], supported: list[Extension]) -> None:
    """Refuse compression: its frames are inflated without any limit."""


_send_error_response: Final = ws_stream.WSStream._send_error_response


async def _refuse_socket(self: ws_stream.WSStream, status_code: int) -> None:
    """Close behind a refused handshake; Hypercorn says `Connection: close` and keeps it open for ever."""
    await _send_error_response(self, status_code)
    await self.send(StreamClosed(stream_id=self.stream_id))


async def _check_request(self: H11Protocol, event: h11.Request) -> None:
    """Refuse the upgrade to HTTP/2, which sends without waiting for the peer to read; and what Quart fails on."""
    try:
        path = urlsplit(event.target).path
    except ValueError:
        path = b""
    if not path:
        await self._send_error_response(400)
        raise h11.RemoteProtocolError("the request target has no path")


class _BoundedBuffer(ws_stream.WebsocketBuffer):
    """Keeps nothing of a message that is too large; Hypercorn's own goes on collecting after its refusal."""

    def extend(self, event: Message[str]) -> None:
        if self.length + len(event.data) > self.max_length:
            self.value = None
            self.max_length = -1  # whatever still comes belongs to the message that was refused
            raise ws_stream.FrameTooLargeError
        super().extend(event)
