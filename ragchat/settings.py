"""Every setting of ragchat: one environment variable each, ``RAGCHAT_`` and the field's name in capitals.

Settings are read and checked once, before anything is opened. What does not make sense is a
`ConfigurationError` that names the variable, the value and the remedy. The table in the README is written
from this module and a test keeps the two equal.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ragchat.errors import ConfigurationError

PREFIX = "RAGCHAT_"
CLIENT_VARIABLES = frozenset({f"{PREFIX}URL", f"{PREFIX}TOKEN"})
"""What `ragchat chat` reads instead: which service it asks, and as whom. No service has use for them."""


def _split(value: str) -> SplitResult:
    parts = urlsplit(value)
    _ = parts.port  # raises a ValueError that names what is wrong with it
    return parts


def _http_url(value: str) -> str:
    parts = _split(value)
    if value and (parts.scheme not in {"http", "https"} or not parts.hostname):
        raise ValueError("must be an http:// or https:// address such as http://127.0.0.1:8080/v1")
    return value.rstrip("/")


def _database_url(value: str) -> str:
    if ":memory:" in value:
        raise ValueError("must name a file; a database in memory could not be shared between connections")
    if value and _split(value).scheme not in {"sqlite", "postgres", "postgresql"}:
        raise ValueError("must begin with sqlite:// or postgres://, as in postgres://user:password@host/name")
    return value


HttpUrl = Annotated[str, AfterValidator(_http_url)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]


class Settings(BaseSettings):
    """What can be configured. Times are in seconds, sizes in bytes unless a name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    # where things are kept
    data_dir: Path = Field(Path(".ragchat"), description="folder of the SQLite database")
    database_url: DatabaseUrl = Field(
        "",
        repr=False,
        description="`sqlite://path` or `postgres://user:password@host/name`; empty means `ragchat.db` in "
        "the data folder",
    )

    # where it listens
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")

    # who may speak
    jwt_secret: SecretStr = Field(
        SecretStr(""),
        description="key for session JWTs: a secret of at least 32 bytes (HS256), or a PEM public key; "
        "empty switches JWTs off",
    )
    jwt_algorithms: Annotated[tuple[str, ...], NoDecode] = Field(
        ("HS256",), description="accepted JWT algorithms, separated by commas"
    )
    jwt_audience: str = Field("", description="required `aud` of JWTs; empty means none is asked for")
    jwt_issuer: str = Field("", description="required `iss` of JWTs; empty means none is asked for")
    query_token: bool = Field(
        True,
        description="whether `?token=` is accepted; URLs end up in logs of proxies, so switch it off "
        "where headers can be sent",
    )

    # what a client may send, and how long it may take
    max_message_bytes: Count = Field(256 * 1024, description="largest WebSocket message and JSON body")
    max_question_chars: Count = Field(32_000, description="longest question")
    max_pending_questions: Count = Field(
        32, description="questions that may wait on one socket; one more closes it with 1008"
    )
    heartbeat: Seconds = Field(20, le=60, description="longest silence on a connection before a heartbeat is sent")
    send_timeout: Seconds = Field(
        30, description="how long a client may not read before its connection is dropped"
    )

    # runs
    max_runs: Count = Field(500, description="answers being generated at once; one more gets 503")
    run_timeout: Seconds = Field(900, description="longest time one answer may take")
    log_retention: Seconds = Field(600, description="how long the events of a finished run can be resumed")
    drain_timeout: Seconds = Field(
        8,
        description="how long running answers may go on after SIGTERM before they are ended with their "
        "text so far",
    )

    # the model
    openai_base_url: HttpUrl = Field(
        "",
        repr=False,
        description="an OpenAI-compatible server, with its `/v1`; empty means the built-in extractive answers",
    )
    openai_api_key: SecretStr = Field(SecretStr(""), description="its key")
    openai_model: str = Field("", description="the model's name; required with the address")
    backend_connect_timeout: Seconds = Field(10, description="how long connecting to the model's server may take")
    backend_idle_timeout: Seconds = Field(
        120, description="longest silence of the model's server; its keep-alive comments do not count"
    )
    max_backend_connections: Count = Field(200, description="requests to the model's server at once; more wait")
    history_messages: int = Field(
        12, ge=0, description="how many earlier messages of a session a model gets to see"
    )

    # documents
    max_document_bytes: Count = Field(64 * 1024 * 1024, description="largest document")
    chunk_tokens: int = Field(512, ge=32, le=8192, description="size of a chunk, in words or Chinese characters")

    # logs
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="what is written to standard error"
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="`console` for people, `json` for machines; `auto` looks whether a person is watching"
    )

    @field_validator("jwt_algorithms", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
        )

    @field_validator("jwt_algorithms")
    @classmethod
    def _known_algorithms(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = {f"{family}{bits}" for family in ("HS", "RS", "ES", "PS") for bits in (256, 384, 512)} | {"EdDSA"}
        if not value or not set(value) <= known:
            raise ValueError(f"must be one or more of {', '.join(sorted(known))}, separated by commas")
        return value

    @field_validator("data_dir")
    @classmethod
    def _plain_path(cls, value: Path) -> Path:
        if set("?#%") & set(str(value)):
            raise ValueError("must not contain ?, # or %, which have a meaning in the database's URL")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        secret = self.jwt_secret.get_secret_value()
        symmetric = [name for name in self.jwt_algorithms if name.startswith("HS")]
        if secret and symmetric and "-----BEGIN" in secret:
            raise ValueError(
                f"{PREFIX}JWT_ALGORITHMS: a public key can't check {symmetric[0]}; name RS256, ES256 or EdDSA"
            )
        if secret and symmetric and len(secret.encode()) < 32:
            raise ValueError(
                f"{PREFIX}JWT_SECRET: has {len(secret.encode())} bytes; use at least 32, for example "
                f"from `openssl rand -hex 32`"
            )
        if self.openai_base_url and not self.openai_model:
            raise ValueError(
                f"{PREFIX}OPENAI_MODEL: is empty while {PREFIX}OPENAI_BASE_URL is set; name the model "
                f"that the server should use"
            )
        return self

    @property
    def database(self) -> str:
        """The database's URL, with the embedded default filled in."""
        return self.database_url or f"sqlite://{self.data_dir / 'ragchat.db'}"


def load(**overrides: Any) -> Settings:
    """Read the settings from the environment; ``overrides`` (by field name) win.

    Raises:
        ConfigurationError: a value does not make sense, or the environment has a ``RAGCHAT_`` variable that
            no setting has (a typing error would otherwise be ignored in silence).
    """
    settings, wrong = examine(**overrides)
    if settings is None or wrong:
        raise ConfigurationError("\n".join(wrong))
    return settings


def examine(**overrides: Any) -> tuple[Settings | None, list[str]]:
    """Like `load`, but tell all that is wrong, a line each. There are no settings if a value makes no sense."""
    wrong = _unknown(os.environ)
    try:
        return Settings(**overrides), wrong
    except ValidationError as error:
        return None, [*wrong, *(_explain(dict(item)) for item in error.errors())]


def _unknown(environment: Mapping[str, str]) -> list[str]:
    known = CLIENT_VARIABLES | {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    return [
        f"{name}: there is no such setting. `ragchat doctor` lists them all."
        for name in sorted(environment)
        if name.startswith(PREFIX) and name.upper() not in known
    ]


def _explain(item: dict[str, Any]) -> str:
    message = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:
        return message
    field = str(item["loc"][0])
    secret = field in Settings.model_fields and Settings.model_fields[field].annotation is SecretStr
    value = "(secret)" if secret else re.sub(r"//[^/@]*@", "//…@", repr(item["input"]))
    return f"{PREFIX}{field.upper()}={value}: {message[:1].lower()}{message[1:]}"
