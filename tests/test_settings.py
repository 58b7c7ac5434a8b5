"""Settings are checked before anything is opened, and a mistake is named with its remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragchat.errors import ConfigurationError
from ragchat.settings import Settings, load


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"RAGCHAT_{name.upper()}", raising=False)


def test_nothing_has_to_be_configured() -> None:
    assert load().database == "sqlite://.ragchat/ragchat.db"


def test_the_database_is_in_the_data_folder_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGCHAT_DATA_DIR", "/data")
    assert load().database == "sqlite:///data/ragchat.db"
    monkeypatch.setenv("RAGCHAT_DATABASE_URL", "postgres://host/name")
    assert load().database == "postgres://host/name"


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGCHAT_PORT", "1")
    assert load(port=2).port == 2


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGCHAT_JWT_ALGORITHMS", "RS256, EdDSA")
    assert load().jwt_algorithms == ("RS256", "EdDSA")


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"PORT": "abc"}, "RAGCHAT_PORT='abc': input should be a valid integer"),
        ({"PORT": "70000"}, "RAGCHAT_PORT='70000': input should be less than or equal to 65535"),
        ({"DATABASE_URL": "mysql://host/name"}, "must begin with sqlite:// or postgres://"),
        ({"DATABASE_URL": "sqlite://:memory:"}, "must name a file"),
        ({"DATABASE_URL": "postgres://u@h:abc/db"}, "port could not be cast"),
        ({"OPENAI_BASE_URL": "http://h:abc/v1", "OPENAI_MODEL": "m"}, "port could not be cast"),
        ({"DATA_DIR": "a#b"}, "must not contain"),
        ({"OPENAI_BASE_URL": "localhost:8080"}, "must be an http:// or https:// address"),
        ({"OPENAI_BASE_URL": "http://localhost/v1"}, "RAGCHAT_OPENAI_MODEL: is empty"),
        ({"JWT_SECRET": "short"}, "RAGCHAT_JWT_SECRET: has 5 bytes; use at least 32"),
        ({"JWT_SECRET": "-----BEGIN PUBLIC KEY-----"}, "a public key can't check HS256"),
        ({"JWT_ALGORITHMS": "none"}, "must be one or more of"),
        ({"HEARTBEAT": "0"}, "RAGCHAT_HEARTBEAT='0': input should be greater than 0"),
        ({"POTR": "8000"}, "RAGCHAT_POTR: there is no such setting"),
    ],
)
def test_a_mistake_is_named_with_its_value_and_its_remedy(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], sentence: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"RAGCHAT_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JWT_SECRET", "hunter2-canary"),
        ("DATABASE_URL", "mysql://user:hunter2-canary@host/name"),
        ("OPENAI_BASE_URL", "ftp://user:hunter2-canary@host/v1"),
    ],
)
def test_a_secret_is_never_repeated(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"RAGCHAT_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert "hunter2-canary" not in str(caught.value)


def test_settings_can_be_printed_without_a_password() -> None:
    settings = load(
        database_url="postgres://u:hunter2@h/n", openai_base_url="http://u:hunter2@h", openai_model="m"
    )
    assert "hunter2" not in repr(settings)


def test_a_relative_data_folder_stays_relative_to_the_working_directory() -> None:
    assert load(data_dir=Path("elsewhere")).database == "sqlite://elsewhere/ragchat.db"
