"""The one place where backends speak HTTP: connections, time, cancellation, and what went wrong in words.

HTTPX's requests and responses, over aiohttp, for a third of the CPU. Its client is left out: redirects, cookies
and ambient credentials are nothing for a request that carries a key. Three things are ours:

* *Slots.* At most ``max_connections`` requests are under way; the rest wait. aiohttp's pool itself has no
  limit, so that nothing can leak out of it.
* *Time.* Only what a backend calls progress winds the clock up again: a server that sends nothing but
  keep-alive comments is a silent one.
* *Closing.* Leaving `Upstream.request`, in whatever way, closes the connection unless the answer was read
  to its end. aiohttp does so before it first waits, hence a second cancellation can't get in between.

The environment's proxies and ``.netrc`` are not looked at: a key goes where the settings say, or nowhere.
``SSL_CERT_FILE`` is, for servers with a certificate of their owner's making.
"""

from __future__ import annotations

import asyncio
import base64
import email.utils
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, cast

import aiohttp
import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport

from ragchat.errors import BackendBusyError, BackendError
from ragchat.settings import PREFIX

_KEEP_ALIVE: Final = 4.0
"""Seconds for which an idle connection is kept: less than the 5 after which many servers close theirs."""

_REFUSAL_BYTES: Final = 64 * 1024
_REFUSAL_SECONDS: Final = 5.0
"""How much of an error's body is read, and how long it may take."""

_REASON_CHARS: Final = 300
"""How much of a server's own words goes into ours."""

_BUSY: Final = frozenset({408, 425, 429, 503, 529})
"""Statuses that say "later", not "never"; 529 is what overloaded model servers made up."""

_LONGEST_ALARM: Final = 60.0
"""Seconds after which it is looked at, at the latest, whether a server is overdue."""

_FAILURES: Final = (httpx.HTTPError, aiohttp.ClientError, OSError)
"""All that sending and reading may raise: HTTPX's transport translates only some of aiohttp's errors."""


class Reply:
    """An answer whose body is still coming: iterate it for the bytes as they come.

    It is watched. Whoever reads gets an error when the server takes longer than `allow` said, and the time
    goes on whatever comes: only another `allow` says that it was worth waiting for. A watched read costs
    nothing that way; `asyncio.timeout` would set a timer for each.
    """

    def __init__(self, upstream: Upstream, response: httpx.Response, seconds: float) -> None:
        self._upstream = upstream
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + seconds
        self._alarm = self._set_alarm()
        self._closing: asyncio.Task[None] | None = None
        self.status = response.status_code
        self.headers = response.headers
        self.media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()

    def __aiter__(self) -> AsyncIterator[bytes]:
        # aiter_raw() would put one more generator between every read and us
        return cast(httpx.AsyncByteStream, self._response.stream).__aiter__()

    @property
    def overdue(self) -> bool:
        """Whether the server took too long."""
        return self._closing is not None

    def allow(self, seconds: float) -> None:
        """What matters must come within ``seconds`` from now."""
        self._deadline = self._loop.time() + seconds
        if self._deadline < self._alarm.when():
            self._alarm.cancel()
            self._alarm = self._set_alarm()

    def pause(self) -> None:
        """Stop the clock until the next `allow`: it is not the server that we wait for."""
        self._deadline = math.inf

    async def read(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            BackendError: it has more than ``limit`` bytes.
        """
        body = bytearray()
        async for data in self:
            body += data
            if len(body) > limit:
                raise self._upstream.error(f"sent more than {limit} bytes")
        return bytes(body)

    async def close(self) -> None:
        """Close the connection, or give it back if the body was read to its end."""
        self._alarm.cancel()
        await self._response.aclose()

    def _set_alarm(self) -> asyncio.TimerHandle:
        latest = self._loop.time() + _LONGEST_ALARM
        return self._loop.call_at(min(self._deadline, latest), self._look)

    def _look(self) -> None:
        if self._loop.time() < self._deadline:
            self._alarm = self._set_alarm()
        else:
            # wakes the reader with an error; aiohttp does it before it first waits
            self._closing = self._loop.create_task(self._response.aclose())


class Upstream:
    """One server behind us.

    ``name`` is the backend's, and its settings are called after it. ``address`` is where the server is, as
    people may see it: without credentials and query.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        key: str,
        max_connections: int,
        connect_timeout: float,
        idle_timeout: float,
    ) -> None:
        self.name = name
        self._url = httpx.URL(base_url)
        self.address = str(self._url.copy_with(userinfo=b"", query=None, fragment=None)).rstrip("/")
        self._secrets = [secret for secret in (key, self._url.password) if secret]
        self._setting = f"{PREFIX}{name.upper()}"
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        self._slots = asyncio.Semaphore(max_connections)
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "ragchat", **self._authorization(key)}
        context = httpx.create_ssl_context()
        self._transport = AiohttpTransport(
            verify=context,
            client=lambda: aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=0, keepalive_timeout=_KEEP_ALIVE),
                cookie_jar=aiohttp.DummyCookieJar(),
            ),
        )

    @asynccontextmanager
    async def request(self, method: str, path: str, body: bytes | None = None) -> AsyncIterator[Reply]:
        """Send a request (``body`` is JSON) to ``path`` under the base URL, and hold on to its answer.

        What goes wrong with the network inside the ``async with`` comes out of it as a `BackendError`.

        Raises:
            BackendError: the server can't be reached, refuses, breaks off, or is silent.
            BackendBusyError: it wants to be asked later.
        """
        async with self._slots:
            reply = await self._send(self._request(method, path, body))
            try:
                await self._accept(reply)
                yield reply
            except _FAILURES as error:
                raise self.explain(TimeoutError() if reply.overdue else error) from None
            finally:
                await reply.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    def error(self, what: str, *, remedy: str = "", retryable: bool = False) -> BackendError:
        """An error whose sentence says that this server did ``what``."""
        return BackendError(self._sentence(what, remedy), retryable=retryable)

    def refused(self, status: int, problem: object = None, retry_after: float | None = None) -> BackendError:
        """What a status means, as an error; ``problem`` is the server's own account of it, in any shape."""
        reason = self._reason(problem)
        if status in {401, 403}:
            # their words may quote the key
            return self.error(f"refused our key ({status})", remedy=f"check {self._setting}_API_KEY")
        if status in _BUSY:
            what = f"is overloaded or limits our rate ({status}){reason}"
            return BackendBusyError(
                self._sentence(what, "try again later"), retryable=True, retry_after=retry_after
            )
        if status == 404:
            what = f"does not know the path or the model (404){reason}"
            return self.error(what, remedy=f"check {self._setting}_BASE_URL and {self._setting}_MODEL")
        if 300 <= status < 400:
            return self.error(f"redirects ({status})", remedy=f"set {self._setting}_BASE_URL to where it points")
        if status >= 500:
            return self.error(f"failed ({status}){reason}", remedy="look at its log", retryable=True)
        return self.error(f"did not accept the request ({status}){reason}")

    def explain(self, error: Exception) -> BackendError:
        """A failure of the network, as an error that says what to do about it."""
        base_url = f"{self._setting}_BASE_URL"
        cause = error.__cause__ if isinstance(error, httpx.HTTPError) and error.__cause__ else error
        match cause:
            case aiohttp.ClientConnectorDNSError():
                return self.error("has a host name that can't be resolved", remedy=f"check {base_url}")
            case aiohttp.ClientSSLError():
                return self.error(
                    "has no TLS connection for us, or a certificate that can't be trusted",
                    remedy=f"check {base_url} and the certificate",
                )
            case aiohttp.ServerTimeoutError():
                what = f"did not accept a connection within {self._connect_timeout:g} seconds"
                return self.error(what, remedy=f"check that it runs, and {base_url}", retryable=True)
            case TimeoutError():
                return self.error(f"sent nothing for {self._idle_timeout:g} seconds", retryable=True)
            case aiohttp.ClientConnectorError():
                remedy = f"check that it runs, and {base_url}"
                return self.error("can't be connected to", remedy=remedy, retryable=True)
            case aiohttp.ClientResponseError():
                return self.error("does not speak HTTP as we do", remedy=f"check {base_url}")
            case _:
                return self.error("broke the connection off", remedy="try again", retryable=True)

    def _request(self, method: str, path: str, body: bytes | None) -> httpx.Request:
        headers = {**self._headers, "Content-Type": "application/json"} if body is not None else self._headers
        # "pool" becomes aiohttp's limit for all of connecting, the look-up of the name included
        timeout = httpx.Timeout(None, connect=self._connect_timeout, pool=self._connect_timeout)
        return httpx.Request(
            method,
            self._url.copy_with(userinfo=b"", path=self._url.path.rstrip("/") + path),
            headers=headers,
            content=body,
            extensions={"timeout": timeout.as_dict()},
        )

    def _authorization(self, key: str) -> dict[str, str]:
        if key:
            return {"Authorization": f"Bearer {key}"}
        if self._url.userinfo:
            credentials = f"{self._url.username}:{self._url.password}".encode()
            return {"Authorization": f"Basic {base64.b64encode(credentials).decode()}"}
        return {}

    async def _send(self, request: httpx.Request) -> Reply:
        try:
            async with asyncio.timeout(self._idle_timeout):
                response = await self._transport.handle_async_request(request)
        except _FAILURES as error:
            raise self.explain(error) from None
        return Reply(self, response, self._idle_timeout)

    async def _accept(self, reply: Reply) -> None:
        if not 200 <= reply.status < 300:
            retry_after = _seconds(reply.headers.get("retry-after", ""))
            raise self.refused(reply.status, await _problem(reply), retry_after)
        if reply.headers.get("content-encoding", "identity") != "identity":
            raise self.error("compresses its answers although we ask it not to")

    def _sentence(self, what: str, remedy: str) -> str:
        sentence = f"{self.name} at {self.address} {what}"
        return f"{sentence}; {remedy}." if remedy else f"{sentence}."

    def _reason(self, problem: object) -> str:
        text = " ".join(_words(problem).split())
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return f": {text[:_REASON_CHARS].rstrip('.')}" if text else ""


async def _problem(reply: Reply) -> object:
    reply.allow(_REFUSAL_SECONDS)
    try:
        return msgspec.json.decode(await reply.read(_REFUSAL_BYTES))
    except (*_FAILURES, BackendError, ValueError, RecursionError):
        return None  # a page of HTML, or none at all: the status has to do


def _words(problem: object) -> str:
    match problem:
        case str():
            return problem
        case {"error": inner} | {"message": inner} | {"msg": inner} | {"detail": inner} | [inner, *_]:
            return _words(inner)
        case _:
            return ""


def _seconds(retry_after: str) -> float | None:
    """``Retry-After`` is a number of seconds or a date (RFC 9110, 10.2.3)."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        date = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, math.ceil(date.timestamp() - time.time()))
