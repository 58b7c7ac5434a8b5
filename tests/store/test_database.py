"""The database is migrated once, never used from a task that may be cancelled, and explains itself."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from pathlib import Path

import pytest
from tortoise import context
from tortoise.exceptions import IntegrityError
from tortoise.migrations.autodetector import MigrationAutodetector

from ragchat.errors import ConfigurationError, DatabaseError
from ragchat.store.database import MIGRATIONS, Database, connection, storable
from ragchat.store.models import APP, ApiToken, Chat, Dataset, new_id
from tests.services import postgres_database


async def test_a_database_that_is_opened_by_many_at_once_is_migrated_once(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(8)]
    await asyncio.gather(*(database.open() for database in databases))
    for database in databases:
        assert await database.run(lambda: Chat.all().count()) == 0
        await database.close()


async def test_what_was_written_is_there_after_a_restart(database_url: str) -> None:
    first = Database(database_url)
    await first.open()
    await first.run(lambda: Chat.create(id="c1", tenant="t", name="名字", dataset_ids=["d1"]))
    await first.close()
    second = Database(database_url)
    await second.open()
    chat = await second.run(lambda: Chat.get(id="c1"))
    await second.close()
    assert (chat.name, chat.dataset_ids) == ("名字", ["d1"])


async def test_an_operation_goes_on_when_its_caller_is_cancelled(database: Database) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def create() -> None:
        entered.set()
        await go_on.wait()
        await Chat.create(id="c1", tenant="t", name="kept")

    caller = asyncio.create_task(database.transaction(create))
    await entered.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    go_on.set()
    await database.close()
    await database.open()
    assert await database.run(lambda: Chat.filter(id="c1").count()) == 1


async def test_callers_that_are_cancelled_at_random_leave_no_lock_and_no_transaction(database: Database) -> None:
    async def create(number: int) -> None:
        await Dataset.create(tenant="t", name=str(number))

    for number in range(60):
        caller = asyncio.create_task(database.transaction(lambda number=number: create(number)))
        for _ in range(number % 7):
            await asyncio.sleep(0)
        caller.cancel()
    assert await asyncio.wait_for(database.run(lambda: Dataset.all().count()), 20) <= 60
    await database.ping()


async def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    async def fail() -> None:
        await Chat.create(tenant="t", name="half")
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        await database.transaction(fail)
    assert await database.run(lambda: Chat.all().count()) == 0


async def test_a_value_that_is_taken_is_an_integrity_error(database: Database) -> None:
    await database.run(lambda: Dataset.create(tenant="t", name="same"))
    with pytest.raises(IntegrityError):
        await database.run(lambda: Dataset.create(tenant="t", name="same"))


async def test_a_closed_database_says_so(database: Database) -> None:
    await database.close()
    with pytest.raises(DatabaseError, match="not open"):
        await database.ping()


async def test_the_host_keeps_its_time_zone_and_its_tortoise(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMEZONE", "Asia/Shanghai")
    monkeypatch.delenv("USE_TZ", raising=False)
    database = Database(database_url)
    await database.open()
    assert os.environ["TIMEZONE"] == "Asia/Shanghai"
    assert "USE_TZ" not in os.environ
    assert context.get_current_context() is None
    await database.close()


async def test_a_database_of_a_newer_version_is_not_touched(database_url: str) -> None:
    database = Database(database_url)
    await database.open()

    async def from_the_future() -> None:
        await connection().execute_query(
            "INSERT INTO tortoise_migrations (app, name, applied_at) "
            "VALUES ('ragchat', '9999_from_the_future', '2099-01-01')"
        )

    await database.run(from_the_future)
    await database.close()
    with pytest.raises(ConfigurationError, match=r"written by a newer ragchat.*9999_from_the_future"):
        await Database(database_url).open()


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigurationError, match=r"RAGCHAT_DATABASE_URL: can't use the database .*file/x\.db"):
        await Database(f"sqlite://{tmp_path}/file/x.db").open()


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("this is a letter to my aunt, and no database at all" * 40)
    with pytest.raises(ConfigurationError, match="file is not a database"):
        await Database(f"sqlite://{tmp_path}/x.db").open()


async def test_a_server_that_cannot_be_reached_is_named_without_its_password() -> None:
    with pytest.raises(ConfigurationError) as caught:
        await Database("postgres://me:hunter2@127.0.0.1:1/name").open()
    assert "127.0.0.1:1/name" in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_postgres_without_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    for module in [name for name in sys.modules if name.startswith("tortoise.backends.asyncpg")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(ConfigurationError, match=r"pip install 'ragchat\[postgres\]'"):
        await Database("postgres://127.0.0.1/name").open()


async def test_a_postgres_connection_that_was_cut_is_replaced() -> None:
    async with postgres_database() as url:
        database = Database(url)
        await database.open()
        await database.query("SELECT pg_backend_pid()")

        async def end_all_others() -> None:
            await connection().execute_query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

        for _ in range(3):
            await database.run(end_all_others)
        await database.ping()
        await database.close()


async def test_a_locked_sqlite_database_is_an_error_that_passes(tmp_path: Path) -> None:
    database = Database(f"sqlite://{tmp_path}/x.db?busy_timeout=1")
    await database.open()
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseError, match="does not answer"):
        await database.run(lambda: ApiToken.create(tenant="t", name="n", digest=new_id(), hint="abcd"))
    other.execute("ROLLBACK")
    other.close()
    await database.run(lambda: ApiToken.create(tenant="t", name="n", digest=new_id(), hint="abcd"))
    await database.close()


def test_text_is_stored_without_what_databases_refuse() -> None:
    assert storable("a\0b") == "ab"
    assert storable("emoji 🎉 stays, a lone surrogate \ud83c not") == "emoji 🎉 stays, a lone surrogate ? not"


def test_what_is_inside_lists_and_dictionaries_is_made_storable_too() -> None:
    assert storable({"a\0": ["\0b", {"c": "\ud83c"}], "n": 7}) == {"a": ["b", {"c": "?"}], "n": 7}


async def test_the_migrations_make_just_what_the_models_say(database: Database) -> None:
    async def missing_migrations() -> list[str]:
        apps = context.require_context().apps
        assert apps is not None
        for model in apps[APP].values():
            model._meta.table_description = ""  # a docstring is no part of the schema
        writers = await MigrationAutodetector(apps, {APP: {"migrations": MIGRATIONS}}).changes()
        return [
            f"{operation.describe()} {vars(operation)}" for writer in writers for operation in writer.operations
        ]

    assert await database.run(missing_migrations) == []
