"""The database: opened, migrated, and used only from tasks that nobody cancels.

Tortoise does not survive a cancellation in the middle of a statement: SQLite deadlocks, PostgreSQL leaks a
pool connection. Quart cancels a handler whenever its peer leaves. So no handler ever owns a statement:
`Database.run` gives each operation a task of its own and the caller only waits for it.

That task also carries our `TortoiseContext`, so that a host application with its own Tortoise is neither seen
nor disturbed. Everything that reaches into Tortoise's private parts is in this module.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import IO, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

from tortoise import BaseDBAsyncClient, context, timezone
from tortoise.exceptions import (
    BaseORMException,
    DBConnectionError,
    IntegrityError,
    OperationalError,
    ValidationError,
)
from tortoise.exceptions import (
    ConfigurationError as TortoiseConfigurationError,
)
from tortoise.migrations.executor import MigrationExecutor, MigrationTarget
from tortoise.models import Model
from tortoise.transactions import in_transaction

from ragchat.errors import ConfigurationError, DatabaseError, NotFoundError
from ragchat.store.models import APP

logger = logging.getLogger(__name__)

T = TypeVar("T")
V = TypeVar("V")
M = TypeVar("M", bound=Model)
Dialect = Literal["sqlite", "postgres"]

MIGRATIONS: Final = "ragchat.migrations"
_LOCK_KEY: Final = 0x7261_6763_6861_74  # "ragchat", for pg_advisory_lock
_LOCK_SECONDS: Final = 60.0
_CLOSING: Final = 1.0
"""Seconds that running operations get when the database is closed."""
_SQLITE_PRAGMAS: Final = "busy_timeout=5000&synchronous=NORMAL"


class Database:
    """One SQLite file or one PostgreSQL database.

    Args:
        url: ``sqlite://path`` or ``postgres://user:password@host:port/name``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.dialect: Dialect = "sqlite" if urlsplit(url).scheme == "sqlite" else "postgres"
        self._tortoise: context.TortoiseContext | None = None
        self._operations: set[asyncio.Task[Any]] = set()

    @property
    def place(self) -> str:
        """Where it is, without credentials, for sentences that a person reads."""
        if self.dialect == "sqlite":
            return self.url.removeprefix("sqlite://").partition("?")[0]
        parts = urlsplit(self.url)
        return f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"

    async def open(self) -> None:
        """Connect, and bring the schema up to date under a lock.

        Raises:
            ConfigurationError: the database can't be reached or written, or is from a newer ragchat.
        """
        async with self._usable():
            await self._migrate()
            self._tortoise = await self._connect(self._with_parameters(_SQLITE_PRAGMAS))
            await self.ping()

    async def check(self) -> str:
        """One line on the database, which is neither made nor changed, for ``ragchat doctor``.

        Raises:
            ConfigurationError: `open` would fail.
        """
        if self.dialect == "sqlite" and not Path(self.place).exists():
            return f"{self.place} is made by the first start"
        async with self._usable():
            self._tortoise = await self._connect(self._with_parameters(_SQLITE_PRAGMAS))
            waiting = await self.run(lambda: _pending_migrations(self.place))
            await self.close()
        return f"{self.place} {'is brought up to date by the next start' if waiting else 'is up to date'}"

    async def close(self) -> None:
        """Let running operations finish, but not for ever, then disconnect. May be called again."""
        if self._operations:
            await asyncio.wait(self._operations, timeout=_CLOSING)
        if self._tortoise is not None:
            tortoise, self._tortoise = self._tortoise, None
            await _in_context(tortoise, tortoise.close_connections)

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run ``operation`` (which uses the models) to its end, even when the caller is cancelled meanwhile.

        Raises:
            DatabaseError: the database can't be reached, is locked or full.
            tortoise.exceptions.IntegrityError: a unique value is taken.
        """
        if self._tortoise is None:
            raise DatabaseError("The database is not open.")
        task = _start_in_context(self._tortoise, operation)
        self._operations.add(task)
        task.add_done_callback(self._forget)
        try:
            return await asyncio.shield(task)
        except IntegrityError:
            raise
        except _UNREACHABLE as error:
            logger.error("The database %s failed: %s", self.place, _reason(error))
            raise DatabaseError("The database does not answer as it should. Try again in a moment.") from error

    async def transaction(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Like `run`, all or nothing. On SQLite the first statement should write (see docs/operations.md)."""

        async def atomically() -> T:
            async with in_transaction(connection().connection_name):
                return await operation()

        return await self.run(atomically)

    async def get(self, model: type[M], missing: str, **columns: Any) -> M:
        """The row of ``model`` with these columns.

        Raises:
            NotFoundError: there is none; ``missing`` is the sentence that says so.
            DatabaseError: see `run`.
        """
        try:
            row = await self.run(lambda: model.get_or_none(**storable(columns)))
        except ValidationError:  # an id that is longer than the column belongs to no row
            row = None
        if row is None:
            raise NotFoundError(missing)
        return row

    async def query(self, sql: str, values: list[Any] | None = None) -> list[dict[str, Any]]:
        """Rows of a statement in the database's own SQL; see `connection` for use inside `transaction`."""
        return await self.run(lambda: connection().execute_query_dict(sql, values or []))

    async def ping(self) -> None:
        """Ask for a sign of life.

        Raises:
            DatabaseError: there is none.
        """
        await self.query("SELECT 1")

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._operations.discard(task)
        if not task.cancelled():
            task.exception()  # its waiter may be gone; an error that nobody awaits is not a second error

    def _with_parameters(self, parameters: str) -> str:
        url = self.url.replace("postgresql://", "postgres://", 1)
        if self.dialect == "postgres":
            return url
        path, _, own = url.partition("?")
        return f"{path}?{parameters}&{own}"  # the last one wins

    async def _connect(self, url: str) -> context.TortoiseContext:
        tortoise = context.TortoiseContext()
        with _host_timezone():
            await _in_context(tortoise, lambda: tortoise.init(config=_config(url)))
        try:
            # Left to itself Tortoise connects inside a lock, which a failure would leave locked for good.
            await _in_context(tortoise, lambda: tortoise.db().create_connection(with_db=True))
        except BaseException:
            await _in_context(tortoise, tortoise.close_connections)
            raise
        return tortoise

    @contextlib.asynccontextmanager
    async def _usable(self) -> AsyncIterator[None]:
        """Say what a person has to change when the database can't be used, and close it then."""
        try:
            yield
        except ConfigurationError:
            await self.close()
            raise
        except ImportError as error:
            raise ConfigurationError(
                f"RAGCHAT_DATABASE_URL: PostgreSQL needs a package that is not installed ({error.name}). "
                "Install ragchat with its extra: pip install 'ragchat[postgres]'."
            ) from error
        except _UNUSABLE as error:
            await self.close()
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigurationError(
                f"RAGCHAT_DATABASE_URL: can't use the database {self.place}: {reason}. "
                "Check that it exists, that it can be reached and that it can be written."
            ) from error

    async def _migrate(self) -> None:
        if self.dialect == "postgres":
            async with self._connected("") as tortoise, _advisory_lock(tortoise):
                await _in_context(tortoise, lambda: _apply_migrations(self.place))
            return
        Path(self.place).parent.mkdir(parents=True, exist_ok=True)
        # The lock comes first: switching a new file to WAL is a write, and one that does not wait for others.
        # Foreign keys are off because rebuilding a table would delete the rows that refer to it.
        async with (
            _file_lock(f"{self.place}.lock"),
            self._connected("busy_timeout=5000&foreign_keys=OFF") as tortoise,
        ):
            await _in_context(tortoise, lambda: _apply_migrations(self.place))

    @contextlib.asynccontextmanager
    async def _connected(self, parameters: str) -> AsyncIterator[context.TortoiseContext]:
        tortoise = await self._connect(self._with_parameters(parameters))
        try:
            yield tortoise
        finally:
            await _in_context(tortoise, tortoise.close_connections)


@contextlib.asynccontextmanager
async def _file_lock(path: str) -> AsyncIterator[None]:
    with open(path, "w") as file:  # noqa: ASYNC230  # empty, and opened once
        await asyncio.to_thread(_lock_file, file)
        yield


@contextlib.asynccontextmanager
async def _advisory_lock(tortoise: context.TortoiseContext) -> AsyncIterator[None]:
    """Hold a lock in a transaction of its own, which a task keeps open for as long as the caller needs it."""
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with in_transaction(connection().connection_name) as client:
            await client.execute_query(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
            entered.set()
            await leave.wait()

    holder = _start_in_context(tortoise, hold)
    waiter = asyncio.create_task(entered.wait())
    try:
        await asyncio.wait({holder, waiter}, return_when=asyncio.FIRST_COMPLETED)
        if entered.is_set():
            yield
    finally:
        leave.set()
        waiter.cancel()
        await holder


def connection() -> BaseDBAsyncClient:
    """The connection of the operation that is running, for statements in the database's own SQL."""
    return context.require_context().db()


def storable(value: V) -> V:
    """``value`` (a text, or lists and dictionaries of texts) as both databases accept it.

    PostgreSQL refuses NUL, and both refuse lone surrogates.
    """
    match value:
        case str() if not value.isascii() or "\0" in value:
            return value.replace("\0", "").encode("utf-8", "replace").decode("utf-8")  # type: ignore[return-value]
        case dict():
            return {storable(key): storable(item) for key, item in value.items()}  # type: ignore[return-value]
        case list() | tuple():
            return [storable(item) for item in value]  # type: ignore[return-value]
        case _:
            return value


def _config(url: str) -> dict[str, Any]:
    # Tortoise caches statements per alias, so each dialect has its own.
    alias = f"{APP}_{urlsplit(url).scheme}"
    models = "ragchat.store.models"
    return {
        "connections": {alias: url},
        "apps": {APP: {"models": [models], "default_connection": alias, "migrations": MIGRATIONS}},
    }


async def _apply_migrations(place: str) -> None:
    if not await _pending_migrations(place):
        return
    try:
        await _executor().migrate([MigrationTarget(app_label=APP, name="__latest__")], direction="forward")
    except TortoiseConfigurationError as error:
        raise ConfigurationError(f"The schema of {place} can't be brought up to date: {error}") from error


async def _pending_migrations(place: str) -> bool:
    """Whether the schema is older than this ragchat.

    Raises:
        ConfigurationError: it is newer.
    """
    loader = _executor().loader
    await loader.build_graph()
    known = {key.name for key in loader.disk_migrations}
    applied = {key.name for key in loader.applied_migrations if key.app_label == APP}
    if unknown := sorted(applied - known):
        raise ConfigurationError(
            f"RAGCHAT_DATABASE_URL: the database {place} was written by a newer ragchat (it has the migration "
            f"{unknown[-1]!r}, which this one does not know). "
            "Install that version again, or use another database."
        )
    return applied != known


def _executor() -> MigrationExecutor:
    client = connection()
    app = {"default_connection": client.connection_name, "migrations": MIGRATIONS}
    return MigrationExecutor(client, {APP: app})


def _start_in_context(tortoise: context.TortoiseContext, operation: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
    variables = contextvars.copy_context()
    variables.run(context._current_context.set, tortoise)

    async def call() -> T:
        return await operation()

    coroutine: Coroutine[Any, Any, T] = call()
    return asyncio.get_running_loop().create_task(coroutine, context=variables)


async def _in_context(tortoise: context.TortoiseContext, operation: Callable[[], Awaitable[T]]) -> T:
    return await asyncio.shield(_start_in_context(tortoise, operation))


@contextlib.contextmanager
def _host_timezone() -> Iterator[None]:
    """Tortoise keeps its time zone per process; leave a host's as it was."""
    before = {name: os.environ.get(name) for name in ("USE_TZ", "TIMEZONE")}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        timezone._reset_timezone_cache()


def _lock_file(file: IO[str]) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    f"Another process has been migrating the database for {_LOCK_SECONDS:.0f} s "
                    f"(it holds {file.name}). Wait for it or end it, then start again."
                ) from None
            time.sleep(0.05)


def _driver_errors() -> tuple[type[Exception], ...]:
    """What PostgreSQL's driver raises by itself; it is an extra and may not be installed."""
    try:
        import asyncpg
    except ImportError:
        return ()
    return (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


_UNREACHABLE: Final[tuple[type[Exception], ...]] = (
    OperationalError,
    DBConnectionError,
    OSError,
    sqlite3.Error,
    *_driver_errors(),
)
_UNUSABLE: Final[tuple[type[Exception], ...]] = (BaseORMException, DatabaseError, *_UNREACHABLE)


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
