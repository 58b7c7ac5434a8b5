"""Who is speaking: from the credentials of a request or a socket to a `Principal`.

The order is fixed (see docs/protocol.md, "Who may speak"): what is present and wrong is an error, never a
reason to look further.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import jwt
import msgspec
from quart import request, websocket
from quart.wrappers import Request, Websocket
from tortoise import timezone

from ragchat.errors import UnauthenticatedError
from ragchat.settings import Settings
from ragchat.store.database import Database
from ragchat.store.models import ApiToken

DEFAULT_TENANT = "default"
TOKEN_PREFIX = "ragchat-"  # noqa: S105  # what a token begins with, not a token
_TOUCH = timedelta(minutes=1)


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who speaks. An empty ``user`` is the tenant itself (an API token), which sees all of its sessions.

    ``expires_at`` is in seconds since 1970, or None when the credentials do not expire.
    """

    tenant: str = DEFAULT_TENANT
    user: str = ""
    expires_at: float | None = None


Identify = Callable[[Request | Websocket], Awaitable[Principal | None]]
"""A host's own way to know its users; None means that nobody is signed in."""


class Access:
    """Lets requests and sockets in, or says why not.

    Args:
        identify: finds out who speaks: an `Authenticator`'s, or the host's.
        ambient: whether browsers may send what it looks at without the page's doing, as they do with cookies.
    """

    def __init__(self, identify: Identify, *, ambient: bool) -> None:
        self._identify = identify
        self._ambient = ambient

    def allows_origin(self, connection: Websocket) -> bool:
        """Whether a page of this origin may open the socket; browsers let every page try (RFC 6455, 10.2)."""
        origin = connection.headers.get("Origin")
        return not self._ambient or origin is None or urlsplit(origin).netloc == connection.host

    async def request(self) -> Principal:
        """Who sent the current request.

        Raises:
            UnauthenticatedError: nobody known.
        """
        return _known(await self._identify(request))

    async def socket(self) -> Principal:
        """Who opens the current socket.

        Raises:
            UnauthenticatedError: nobody known.
        """
        return _known(await self._identify(websocket))


class Authenticator:
    """Finds out who speaks, by API token and JWT.

    Args:
        settings: which JWTs are accepted, and whether ``?token=`` is.
        database: where API tokens are kept.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database

    async def identify(self, connection: Request | Websocket) -> Principal:
        """The principal of a request or a socket.

        Raises:
            UnauthenticatedError: no credentials, or wrong ones.
        """
        header = connection.headers.get("Authorization", "").strip()
        if header:
            scheme, _, rest = header.partition(" ")
            return await self._by_token(rest.strip() if scheme.lower() == "bearer" else header)
        token = connection.args.get("token", "")
        if token and self._settings.query_token:
            return await self._by_token(token)
        where = "the header `Authorization: Bearer <token>`"
        if self._settings.query_token:
            where += " or the query parameter `token`"
        raise UnauthenticatedError(
            "No credentials. Send an API token, which `ragchat token create --name NAME` makes, "
            f"or a session JWT in {where}."
        )

    async def _by_token(self, token: str) -> Principal:
        if token.startswith(TOKEN_PREFIX):
            return await self._by_api_token(token)
        return self._by_jwt(token)

    async def _by_api_token(self, token: str) -> Principal:
        async def find() -> ApiToken | None:
            row = await ApiToken.get_or_none(digest=digest(token), revoked_at=None)
            now = timezone.now()
            if row is not None and (row.last_used_at is None or now - row.last_used_at > _TOUCH):
                await ApiToken.filter(id=row.id).update(last_used_at=now)
            return row

        row = await self._database.run(find)
        if row is None:
            raise UnauthenticatedError(
                "This API token is not known or was revoked. `ragchat token create --name NAME` makes a new one."
            )
        return Principal(tenant=row.tenant)

    def _by_jwt(self, token: str) -> Principal:
        settings = self._settings
        secret = settings.jwt_secret.get_secret_value()
        if not secret:
            raise UnauthenticatedError(
                f"This is no API token (they begin with `{TOKEN_PREFIX}`), and session JWTs are switched off here."
            )
        try:
            claims = jwt.decode(
                token,
                secret,
                algorithms=list(settings.jwt_algorithms),
                audience=settings.jwt_audience or None,
                issuer=settings.jwt_issuer or None,
                options={"require": ["exp", "sub"], "verify_aud": bool(settings.jwt_audience)},
            )
        except jwt.ExpiredSignatureError:
            raise UnauthenticatedError("The session token has expired. Sign in again.") from None
        except jwt.PyJWTError as error:
            raise UnauthenticatedError(f"The session token is not valid: {error}.") from None
        return _principal(claims)


def _known(principal: Principal | None) -> Principal:
    if principal is None:
        raise UnauthenticatedError("You are not signed in. Sign in and try again.")
    return principal


def _principal(claims: dict[str, Any]) -> Principal:
    tenant = claims.get("tenant", DEFAULT_TENANT)
    if not isinstance(tenant, str) or not 0 < len(tenant) <= 64:
        raise UnauthenticatedError("The session token's `tenant` must be a string of 1 to 64 characters.")
    user = str(claims["sub"])
    if not 0 < len(user) <= 255:
        raise UnauthenticatedError("The session token's `sub` must be a string of 1 to 255 characters.")
    return Principal(tenant=tenant, user=user, expires_at=float(claims["exp"]))


def digest(token: str) -> str:
    """The SHA-256 of an API token in hexadecimal digits, which is all that is kept of it."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def new_token() -> str:
    """A new API token: 256 random bits behind `TOKEN_PREFIX`."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def seconds_left(principal: Principal) -> float | None:
    """How long the principal's credentials still hold, or None when they do not expire."""
    return None if principal.expires_at is None else max(0.0, principal.expires_at - time.time())
