"""The commands, each run as a program of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sqlite3
from importlib.metadata import version
from pathlib import Path

import pytest

from ragchat.settings import Settings
from tests.fakes.model_server import ModelServer
from tests.service import ragchat, serving

NOWHERE = "postgres://ragchat:hunter2@127.0.0.1:9/ragchat"


def assert_one_clear_line(folder: Path, *arguments: str, expected: str, **variables: str) -> None:
    """The command fails with exit code 1 and one line of explanation."""
    result = ragchat(folder, *arguments, **variables)
    assert result.returncode == 1, result
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    assert expected in line
    assert "hunter2" not in line


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    assert ragchat(tmp_path, "--version").stdout == f"ragchat {version('ragchat')}\n"


@pytest.mark.parametrize("command", ["serve", "migrate", "ingest", "chat", "token", "doctor"])
def test_every_command_explains_itself(tmp_path: Path, command: str) -> None:
    assert command in ragchat(tmp_path, "--help").stdout
    result = ragchat(tmp_path, command, "--help")
    assert (result.returncode, result.stderr) == (0, "")


class TestWhatIsWrongIsOneClearLine:
    def test_a_port_in_use(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            assert_one_clear_line(tmp_path, "serve", "--port", port, expected=f"RAGCHAT_PORT={port}")

    def test_an_address_of_another_machine(self, tmp_path: Path) -> None:
        assert_one_clear_line(tmp_path, "serve", "--host", "192.0.2.1", "--port", "0", expected="192.0.2.1")

    @pytest.mark.parametrize("command", ["serve", "migrate"])
    def test_a_folder_that_cannot_be_written(self, tmp_path: Path, command: str) -> None:
        (tmp_path / "file").touch()
        data = str(tmp_path / "file" / "data")
        assert_one_clear_line(tmp_path, command, expected=data, RAGCHAT_DATA_DIR=data, RAGCHAT_PORT="0")

    @pytest.mark.parametrize("command", ["serve", "migrate"])
    def test_a_database_that_cannot_be_reached(self, tmp_path: Path, command: str) -> None:
        assert_one_clear_line(
            tmp_path, command, expected="127.0.0.1:9/ragchat", RAGCHAT_DATABASE_URL=NOWHERE, RAGCHAT_PORT="0"
        )

    @pytest.mark.parametrize("command", ["serve", "migrate"])
    def test_a_database_of_a_newer_version(self, tmp_path: Path, command: str) -> None:
        ragchat(tmp_path, "migrate")
        with contextlib.closing(
            sqlite3.connect(tmp_path / ".ragchat" / "ragchat.db", isolation_level=None)
        ) as database:
            database.execute(
                "INSERT INTO tortoise_migrations (app, name, applied_at) VALUES (?, ?, ?)",
                ("ragchat", "9999_future", "2099-01-01"),
            )
        assert_one_clear_line(tmp_path, command, expected="9999_future", RAGCHAT_PORT="0")

    @pytest.mark.parametrize("command", ["serve", "migrate"])
    def test_a_setting_that_makes_no_sense(self, tmp_path: Path, command: str) -> None:
        assert_one_clear_line(tmp_path, command, expected="RAGCHAT_PORT='eighty'", RAGCHAT_PORT="eighty")

    def test_a_setting_that_does_not_exist(self, tmp_path: Path) -> None:
        assert_one_clear_line(tmp_path, "migrate", expected="RAGCHAT_PROT", RAGCHAT_PROT="8000")

    def test_an_option_that_makes_no_sense(self, tmp_path: Path) -> None:
        assert_one_clear_line(tmp_path, "serve", "--port", "70000", expected="RAGCHAT_PORT=70000")


class TestServe:
    def test_the_first_start_shows_a_token_in_the_fragment_and_later_ones_do_not(self, tmp_path: Path) -> None:
        with serving(tmp_path) as first:
            assert first.output[1].startswith(f"Open {first.url}/#token=ragchat-")
            assert first.stop() == 0
        with serving(tmp_path) as second:
            assert second.output[1].startswith(f"Open {second.url}/ ")
            assert "`ragchat token create --name NAME`" in second.output[1]
            assert second.stop() == 0

    def test_a_signal_is_answered_with_what_happens_now(self, tmp_path: Path) -> None:
        with serving(tmp_path, RAGCHAT_DRAIN_TIMEOUT="2.5") as service:
            assert service.stop() == 0
        said = "Stopping: up to 2.5 s for running answers; Ctrl-C again ends at once.\n"
        assert (tmp_path / "serve.log").read_text() == said

    def test_a_second_service_on_the_same_database_is_refused(self, tmp_path: Path) -> None:
        with serving(tmp_path):
            assert_one_clear_line(
                tmp_path, "serve", "--port", "0", expected="Another `ragchat serve` uses the database .ragchat/"
            )

    def test_a_second_service_on_another_database_starts(self, tmp_path: Path) -> None:
        with serving(tmp_path), serving(tmp_path, RAGCHAT_DATA_DIR="other") as second:
            assert second.stop() == 0

    def test_a_killed_service_leaves_no_lock_behind(self, tmp_path: Path) -> None:
        with serving(tmp_path) as first:
            first.process.kill()
            first.process.wait()
        with serving(tmp_path) as second:
            assert second.stop() == 0

    def test_no_token_is_made_when_all_were_revoked(self, tmp_path: Path) -> None:
        ragchat(tmp_path, "token", "create", "--name", "mine")
        ragchat(tmp_path, "token", "revoke", "mine")
        with serving(tmp_path) as service:
            assert service.token == ""


class TestToken:
    def test_create_prints_the_token_alone(self, tmp_path: Path) -> None:
        result = ragchat(tmp_path, "token", "create", "--name", "ci")
        assert (result.returncode, result.stderr) == (0, "")
        (token,) = result.stdout.splitlines()
        assert token.startswith("ragchat-")

    @pytest.mark.parametrize("name", ["", " \t"])
    def test_a_name_that_is_empty_is_refused(self, tmp_path: Path, name: str) -> None:
        assert_one_clear_line(tmp_path, "token", "create", "--name", name, expected="--name is empty")

    def test_list_shows_names_and_endings_and_never_a_token(self, tmp_path: Path) -> None:
        tokens = [ragchat(tmp_path, "token", "create", "--name", name).stdout.strip() for name in ("one", "two")]
        ragchat(tmp_path, "token", "revoke", "one")
        _, *rows = [line.split() for line in ragchat(tmp_path, "token", "list").stdout.splitlines()]
        assert [len(row[0]) for row in rows] == [32, 32], "an id that `revoke` takes"
        assert [(row[1], row[2]) for row in rows] == [("one", tokens[0][-4:]), ("two", tokens[1][-4:])]
        assert (len(rows[0]), len(rows[1])) == (7, 5), "only the first has the date and time of its revocation"

    def test_a_name_nobody_has_cannot_be_revoked(self, tmp_path: Path) -> None:
        assert_one_clear_line(tmp_path, "token", "revoke", "nobody", expected="'nobody'")


class TestMigrate:
    def test_a_new_database_is_made_and_a_second_time_changes_nothing(self, tmp_path: Path) -> None:
        results = [ragchat(tmp_path, "migrate") for _ in range(2)]
        assert [(result.returncode, result.stdout) for result in results] == [
            (0, "The database .ragchat/ragchat.db is up to date.\n")
        ] * 2


class TestDoctor:
    def test_every_setting_is_listed_with_its_origin(self, tmp_path: Path) -> None:
        result = ragchat(tmp_path, "doctor", RAGCHAT_MAX_RUNS="7")
        assert result.returncode == 0, result
        rows = [line.split() for line in result.stdout.partition("\n\n")[0].splitlines()]
        assert [row[0] for row in rows] == [f"RAGCHAT_{name.upper()}" for name in Settings.model_fields]
        assert ["RAGCHAT_MAX_RUNS", "7", "environment"] in rows
        assert ["RAGCHAT_MAX_MESSAGE_BYTES", "262144", "default"] in rows

    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("RAGCHAT_PORT", "eighty", "RAGCHAT_PORT='eighty': "),
            ("RAGCHAT_OPENAI_BASE_URL", "http://127.0.0.1:9/v1", "RAGCHAT_OPENAI_MODEL: is empty while "),
        ],
    )
    def test_a_wrong_setting_is_named_beside_all_the_others(
        self, tmp_path: Path, name: str, value: str, expected: str
    ) -> None:
        result = ragchat(tmp_path, "doctor", **{name: value, "RAGCHAT_MAX_RUNS": "7"})
        assert (result.returncode, result.stderr) == (1, "")
        table, _, findings = result.stdout.partition("\n\n")
        rows = [line.split() for line in table.splitlines()]
        assert len(rows) == len(Settings.model_fields)
        assert [name, value, "environment"] in rows
        assert ["RAGCHAT_MAX_RUNS", "7", "environment"] in rows
        (finding,) = findings.splitlines()
        assert finding.startswith(f"failed  setting: {expected}")

    def test_a_setting_that_does_not_exist_is_named_and_the_rest_is_tried(self, tmp_path: Path) -> None:
        result = ragchat(tmp_path, "doctor", RAGCHAT_PROT="8000")
        assert (result.returncode, result.stderr) == (1, "")
        table, _, findings = result.stdout.partition("\n\n")
        assert len(table.splitlines()) == len(Settings.model_fields)
        assert [line.partition(": ")[0] for line in findings.splitlines()] == [
            "failed  setting", "ok      data folder", "ok      database", "ok      model"
        ]  # fmt: skip
        assert "RAGCHAT_PROT" in findings

    async def test_a_model_that_its_server_does_not_list_is_a_warning(self, tmp_path: Path) -> None:
        async with ModelServer() as server:
            server.script(b'{"data":[{"id":"this"}]}', headers={"Content-Type": "application/json"})
            variables = {"RAGCHAT_OPENAI_BASE_URL": server.base_url, "RAGCHAT_OPENAI_MODEL": "other"}
            result = await asyncio.to_thread(ragchat, tmp_path, "doctor", **variables)
        assert result.returncode == 0
        (line,) = [line for line in result.stdout.splitlines() if "model:" in line]
        assert line.startswith("warning model: ")
        assert "has no 'other'" in line

    def test_nothing_is_made_or_changed(self, tmp_path: Path) -> None:
        ragchat(tmp_path, "doctor")
        assert list(tmp_path.iterdir()) == []

    def test_secrets_are_not_shown(self, tmp_path: Path) -> None:
        result = ragchat(
            tmp_path, "doctor", RAGCHAT_JWT_SECRET="hunter2" * 5, RAGCHAT_DATABASE_URL=NOWHERE
        )  # fmt: skip
        assert "hunter2" not in result.stdout + result.stderr
        assert ["RAGCHAT_JWT_SECRET", "(secret)", "environment"] in map(str.split, result.stdout.splitlines())

    def test_a_database_that_cannot_be_reached_is_named_and_fails(self, tmp_path: Path) -> None:
        result = ragchat(tmp_path, "doctor", RAGCHAT_DATABASE_URL=NOWHERE)
        assert result.returncode == 1
        assert "failed  database: RAGCHAT_DATABASE_URL: can't use the database 127.0.0.1:9" in result.stdout

    def test_a_model_server_that_cannot_be_reached_is_named_and_fails(self, tmp_path: Path) -> None:
        result = ragchat(
            tmp_path, "doctor", RAGCHAT_OPENAI_BASE_URL="http://127.0.0.1:9/v1", RAGCHAT_OPENAI_MODEL="m"
        )
        assert result.returncode == 1
        assert "failed  model: " in result.stdout
        assert "ok      database: " in result.stdout

    def test_a_folder_that_cannot_be_written_is_named_and_fails(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        result = ragchat(tmp_path, "doctor", RAGCHAT_DATA_DIR=str(tmp_path / "file"))
        assert result.returncode == 1
        assert "failed  data folder: RAGCHAT_DATA_DIR=" in result.stdout


class TestIngest:
    @pytest.fixture
    def library(self, tmp_path: Path) -> Path:
        """A folder with two documents, a broken one, and what is left out."""
        library = tmp_path / "library"
        (library / "deeper").mkdir(parents=True)
        (library / "bees.md").write_text("# Bees\n\nBees dance to tell where flowers are.\n")
        (library / "deeper" / "ants.txt").write_text("Ants follow trails of pheromones.\n")
        (library / "broken.pdf").write_bytes(b"%PDF-1.7 broken")
        (library / ".hidden.md").write_text("secret")
        (library / "picture.png").write_bytes(b"\x89PNG")
        return library

    def test_a_folder_is_read_and_every_file_that_is_not_is_named(self, tmp_path: Path, library: Path) -> None:
        result = ragchat(tmp_path, "ingest", "library", "--dataset", "insects")
        assert result.returncode == 1
        assert result.stdout.splitlines() == [
            "The chat 'default' reads the dataset 'insects' from now on.",
            "2 added, 0 updated, 0 unchanged, 1 failed",
        ]
        named = {line.split(": ")[0] for line in result.stderr.splitlines()}
        assert named == {
            "skipped  library/.hidden.md", "skipped  library/picture.png", "failed  library/broken.pdf"
        }  # fmt: skip

    def test_what_has_not_changed_is_not_read_again(self, tmp_path: Path, library: Path) -> None:
        (library / "broken.pdf").unlink()
        ragchat(tmp_path, "ingest", "library", "--dataset", "insects")
        (library / "bees.md").write_text("# Bees\n\nBees have five eyes.\n")
        result = ragchat(tmp_path, "ingest", "library", "--dataset", "insects")
        assert (result.returncode, result.stdout) == (0, "0 added, 1 updated, 1 unchanged, 0 failed\n")

    def test_a_file_that_does_not_exist_fails_and_the_rest_goes_on(self, tmp_path: Path, library: Path) -> None:
        result = ragchat(tmp_path, "ingest", "nothing.md", "library/bees.md", "--dataset", "insects")
        assert result.returncode == 1
        assert result.stdout.endswith("1 added, 0 updated, 0 unchanged, 1 failed\n")
        assert result.stderr == "failed  nothing.md: can't be opened: No such file or directory.\n"

    def test_files_that_all_fail_make_no_dataset(self, tmp_path: Path, library: Path) -> None:
        result = ragchat(tmp_path, "ingest", "library/broken.pdf", "nothing.md", "--dataset", "insects")
        assert (result.returncode, result.stdout) == (1, "0 added, 0 updated, 0 unchanged, 2 failed\n")
        with contextlib.closing(sqlite3.connect(tmp_path / ".ragchat" / "ragchat.db")) as database:
            assert database.execute("SELECT name FROM ragchat_dataset").fetchall() == [("ragchat-docs",)]

    def test_files_that_all_fail_do_not_make_a_chat_read_the_dataset(self, tmp_path: Path, library: Path) -> None:
        ragchat(tmp_path, "ingest", "library/bees.md", "--dataset", "insects", "--chat", "")
        result = ragchat(tmp_path, "ingest", "library/broken.pdf", "--dataset", "insects")
        assert (result.returncode, result.stdout) == (1, "0 added, 0 updated, 0 unchanged, 1 failed\n")

    def test_a_file_of_another_type_is_skipped_in_a_folder_and_fails_when_named(self, tmp_path: Path) -> None:
        """… whatever is in it."""
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "really.docx").write_text("# This is Markdown\n\nWhatever it is called.\n")
        skipped = ragchat(tmp_path, "ingest", "notes", "--dataset", "notes")
        assert skipped.returncode == 1
        assert skipped.stderr.startswith("skipped  notes/really.docx: is of no type that is read.\n")
        failed = ragchat(tmp_path, "ingest", "notes/really.docx", "--dataset", "notes")
        assert (failed.returncode, failed.stdout) == (1, "0 added, 0 updated, 0 unchanged, 1 failed\n")
        assert failed.stderr.startswith("failed  notes/really.docx: is of no type that is read. ")

    def test_a_folder_with_nothing_to_read_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert_one_clear_line(tmp_path, "ingest", "empty", "--dataset", "insects", expected="Nothing to ingest")

    def test_a_chat_that_does_not_exist_is_an_error_before_anything_is_read(
        self, tmp_path: Path, library: Path
    ) -> None:
        arguments = ("ingest", "library", "--dataset", "insects", "--chat", "nobody")
        assert_one_clear_line(tmp_path, *arguments, expected="There is no chat 'nobody'")

    @pytest.mark.parametrize("name", ["", " \t"])
    def test_a_dataset_without_a_name_is_refused(self, tmp_path: Path, library: Path, name: str) -> None:
        assert_one_clear_line(tmp_path, "ingest", "library", "--dataset", name, expected="--dataset is empty")

    def test_no_chat_reads_a_dataset_that_is_for_none(self, tmp_path: Path, library: Path) -> None:
        result = ragchat(tmp_path, "ingest", "library/bees.md", "--dataset", "insects", "--chat", "")
        assert result.stdout == "1 added, 0 updated, 0 unchanged, 0 failed\n"
        with contextlib.closing(
            sqlite3.connect(tmp_path / ".ragchat" / "ragchat.db", isolation_level=None)
        ) as database:
            ((datasets,),) = database.execute("SELECT dataset_ids FROM ragchat_chat WHERE id = 'default'")
            ((insects,),) = database.execute("SELECT id FROM ragchat_dataset WHERE name = 'insects'")
        assert insects not in json.loads(datasets)
