"""Log lines: one set-up, one shape, and no secrets.

Everything that is logged, by us or by a package that we use, passes one formatter on its way to standard
error. There it is scrubbed: what we know to be secret, and what looks like it, never reaches a terminal or a
file. Ours is logged from the level that is set, other packages from warnings on, because some of them write
URLs and SQL with its parameters at lower levels.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, Final

import structlog
from pydantic import SecretStr
from structlog.typing import EventDict, Processor, WrappedLogger

from ragchat.settings import Settings

REMOVED: Final = "[removed]"

access_logger = structlog.get_logger("ragchat.access")


def configure(settings: Settings) -> None:
    """Send all log lines to standard error, as ``log_level`` and ``log_format`` say. May be called again."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(settings, people_watch=sys.stderr.isatty()))
    logging.root.handlers = [handler]
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    logging.root.setLevel(max(level, logging.WARNING))
    logging.getLogger("ragchat").setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_COMMON,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


_COMMON: Final[tuple[Processor, ...]] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def _formatter(settings: Settings, *, people_watch: bool) -> logging.Formatter:
    for_people = settings.log_format == "console" or (settings.log_format == "auto" and people_watch)
    rendering: tuple[Processor, ...] = (structlog.processors.JSONRenderer(),)
    if for_people:
        # Rich would print local variables with a traceback, and secrets live in local variables.
        plain = structlog.dev.plain_traceback
        console = structlog.dev.ConsoleRenderer(colors=people_watch, exception_formatter=plain)
        rendering = (_escape_controls, console)
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_COMMON,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            Scrubber(_configured_secrets(settings)),
            *rendering,
        ],
    )


def _configured_secrets(settings: Settings) -> list[str]:
    values = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
    return [value for value in values if value]


class Scrubber:
    """A structlog processor that removes secrets from everything it is given, however deep they are.

    Args:
        secrets: texts that are removed wherever they occur.
    """

    def __init__(self, secrets: Collection[str] = ()) -> None:
        self._secrets = sorted(secrets, key=len, reverse=True)

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        return {name: self._clean(name, value) for name, value in event.items()}

    def text(self, text: str) -> str:
        """``text`` without secrets; the words around them stay."""
        for secret in self._secrets:
            text = text.replace(secret, REMOVED)
        for pattern, replacement in _SECRET_TEXTS:
            text = pattern.sub(replacement, text)
        return text

    def _clean(self, name: str, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if _SECRET_NAME.search(name):
            return REMOVED
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(key)): self._clean(str(key), item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._clean("", item) for item in value]
        return self.text(repr(value))


_NAMES: Final = r"(?:token|ticket|secret|password|passwd|authorization|api[_-]?key)"
_SECRET_NAME: Final = re.compile(rf"(?i)(?:^|[_-])(?:{_NAMES}|cookie)$")
_ASSIGNED: Final = r"""["']?\s*(?:[:=]|%3[dD]|,(?=\s*b?["']))\s*(?:b(?=["']))?"""
_SECRET_TEXTS: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # credentials of `Authorization`, and our subprotocol ragchat.bearer.<token>
        (r"(?i)\b(bearer|basic)(\s+|\.)[\w.~+/=-]+", rf"\1\2{REMOVED}"),
        # a JWT: three base64url parts, the first one being a JSON object (RFC 7519)
        (r"\beyJ[\w-]+\.[\w-]+\.[\w-]*", REMOVED),
        # API tokens of ragchat, RAGFlow, OpenAI and Dify
        (r"\b(?:ragchat|ragflow|sk|app)-[\w-]{16,}", REMOVED),
        (r"(?i)(\b(?:set-)?cookie" + _ASSIGNED + r").*", rf"\1{REMOVED}"),
        (
            rf"(?i)((?:\b|_|%3f|%26){_NAMES}{_ASSIGNED})" + r"""(?:"[^"]*"|'[^']*'|[^\s&"',;)\]}]+)""",
            rf"\1{REMOVED}",
        ),
        # the user and the password in a URL (RFC 3986, 3.2.1)
        (r"://[^/\s@]+@", f"://{REMOVED}@"),
        (r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", REMOVED),
    )
)


def _escape_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Nobody who is quoted in a log line may forge another one, or speak to the terminal."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = value.translate(_IN_TRACEBACKS if name in {"exception", "stack"} else _CONTROLS)
    return event


_CONTROLS: Final = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
_IN_TRACEBACKS: Final = {code: text for code, text in _CONTROLS.items() if chr(code) not in "\n\t"}


Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class AccessLog:
    """ASGI middleware: one line when a request or a WebSocket has ended.

    The line has the method, the path, the status, the seconds it took and the peer's address. It has neither
    the query string nor any header, because that is where credentials travel. A status of None means that
    the peer left before it got an answer.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status: int | None = None
        started = time.perf_counter()

        def observe(message: Message) -> Awaitable[None]:
            nonlocal status
            if status is None:
                status = _status(message)
            return send(message)

        try:
            await self._app(scope, receive, observe)
        finally:
            access_logger.info(
                "request",
                method=scope.get("method", "GET"),
                path=scope["raw_path"].decode("latin-1"),
                status=status,
                seconds=round(time.perf_counter() - started, 3),
                peer=(scope["client"] or ("",))[0],
            )


def _status(message: Message) -> int | None:
    match message["type"]:
        case "http.response.start" | "websocket.http.response.start":
            return int(message["status"])
        case "websocket.accept":
            return 101
        case "websocket.close":
            return 403
        case _:
            return None
