"""Who is speaking: what is present and wrong is an error, never a reason to look further."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, cast

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from quart.wrappers import Request

from ragchat.auth.identity import Authenticator, Principal, digest, new_token, seconds_left
from ragchat.auth.tokens import create_token, list_tokens, revoke_token
from ragchat.errors import NotFoundError, UnauthenticatedError
from ragchat.settings import load
from ragchat.store.database import Database

SECRET = "a secret of at least 32 bytes, for tests"


class Connection:
    """The two parts of a request that matter here."""

    def __init__(self, header: str = "", query: Mapping[str, str] | None = None) -> None:
        self.headers = {"Authorization": header} if header else {}
        self.args = query or {}


async def identify(database: Database, header: str = "", query: str = "", **settings: Any) -> Principal:
    authenticator = Authenticator(load(**settings), database)
    connection = Connection(header, {"token": query} if query else {})
    return await authenticator.identify(cast(Request, connection))


def token(**claims: Any) -> str:
    return jwt.encode({"sub": "ann", "exp": time.time() + 60, **claims}, SECRET)


async def test_an_api_token_speaks_for_its_tenant(database: Database) -> None:
    api_token = await create_token(database, "test", tenant="acme")
    for header, query in (
        (f"Bearer {api_token}", ""),
        (f"bearer  {api_token}", ""),
        (api_token, ""),
        ("", api_token),
    ):
        assert await identify(database, header, query) == Principal(tenant="acme")


async def test_only_the_digest_of_a_token_is_kept(database: Database) -> None:
    api_token = await create_token(database, "test")
    [row] = await list_tokens(database)
    assert (row.digest, row.hint) == (digest(api_token), api_token[-4:])
    assert api_token not in str(dict(row))


async def test_the_last_use_of_a_token_is_remembered(database: Database) -> None:
    api_token = await create_token(database, "test")
    await identify(database, f"Bearer {api_token}")
    [row] = await list_tokens(database)
    assert row.last_used_at is not None


async def test_a_revoked_token_opens_nothing(database: Database) -> None:
    api_token = await create_token(database, "test")
    assert await revoke_token(database, "test") == 1
    with pytest.raises(UnauthenticatedError, match="not known or was revoked"):
        await identify(database, f"Bearer {api_token}")
    with pytest.raises(NotFoundError):
        await revoke_token(database, "test")


async def test_a_token_can_be_revoked_by_its_id(database: Database) -> None:
    await create_token(database, "same name")
    await create_token(database, "same name")
    first, _ = await list_tokens(database)
    assert await revoke_token(database, first.id) == 1
    assert [row.revoked_at is None for row in await list_tokens(database)] == [False, True]


async def test_a_jwt_speaks_for_its_user(database: Database) -> None:
    expiry = int(time.time()) + 60
    for header in (f"Bearer {token(exp=expiry, tenant='acme')}", token(exp=expiry, tenant="acme")):
        assert await identify(database, header, jwt_secret=SECRET) == Principal(
            tenant="acme", user="ann", expires_at=expiry
        )


async def test_a_jwt_may_be_signed_with_a_private_key_of_the_host(database: Database) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signed = jwt.encode({"sub": "ann", "exp": time.time() + 60}, key, "ES256")
    settings = {"jwt_secret": public.decode(), "jwt_algorithms": ("ES256",)}
    assert (await identify(database, signed, **settings)).user == "ann"


@pytest.mark.parametrize(
    ("claims", "settings", "sentence"),
    [
        ({"exp": 1}, {}, "expired"),
        ({"exp": None}, {}, "not valid"),
        ({"sub": None}, {}, "not valid"),
        ({"sub": ""}, {}, "`sub`"),
        ({"sub": "x" * 300}, {}, "`sub`"),
        ({"tenant": 7}, {}, "`tenant`"),
        ({"tenant": ""}, {}, "`tenant`"),
        ({"nbf": 99999999999}, {}, "not valid"),
        ({}, {"jwt_audience": "ragchat"}, "not valid"),
        ({"aud": "other"}, {"jwt_audience": "ragchat"}, "not valid"),
        ({}, {"jwt_issuer": "host"}, "not valid"),
        ({}, {"jwt_algorithms": ("HS512",)}, "not valid"),
        ({}, {"jwt_secret": "another secret of at least 32 bytes!!"}, "not valid"),
        ({}, {"jwt_secret": ""}, "switched off"),
    ],
)
async def test_a_jwt_that_is_not_as_it_must_be_is_refused(
    database: Database, claims: dict[str, Any], settings: dict[str, Any], sentence: str
) -> None:
    merged = {
        name: value
        for name, value in {"sub": "ann", "exp": time.time() + 60, **claims}.items()
        if value is not None
    }
    with pytest.raises(UnauthenticatedError, match=sentence):
        await identify(database, jwt.encode(merged, SECRET), **{"jwt_secret": SECRET, **settings})


async def test_an_unsigned_jwt_is_refused(database: Database) -> None:
    unsigned = jwt.encode({"sub": "ann", "exp": time.time() + 60}, None, "none")
    with pytest.raises(UnauthenticatedError):
        await identify(database, unsigned, jwt_secret=SECRET)


async def test_a_wrong_header_is_not_forgiven_for_a_right_query(database: Database) -> None:
    api_token = await create_token(database, "test")
    with pytest.raises(UnauthenticatedError):
        await identify(database, "Bearer ragchat-wrong", api_token)


async def test_without_credentials_the_sentence_says_where_to_put_them(database: Database) -> None:
    with pytest.raises(UnauthenticatedError, match="or the query parameter `token`"):
        await identify(database)
    with pytest.raises(UnauthenticatedError, match=r"in the header `Authorization: Bearer <token>`\.$"):
        await identify(database, query_token=False)


def test_tokens_are_long_and_all_different() -> None:
    assert len({new_token() for _ in range(100)}) == 100
    assert len(new_token()) == len("ragchat-") + 43


def test_what_is_left_of_credentials() -> None:
    assert seconds_left(Principal()) is None
    assert seconds_left(Principal(expires_at=1)) == 0
