"""API tokens: made, listed and revoked. A token is shown once; only its digest is kept."""

from __future__ import annotations

from tortoise import timezone

from ragchat.auth.identity import DEFAULT_TENANT, digest, new_token
from ragchat.errors import NotFoundError
from ragchat.store.database import Database
from ragchat.store.models import ApiToken


async def create_token(database: Database, name: str, tenant: str = DEFAULT_TENANT) -> str:
    """Make a token and return it; it can't be shown again."""
    token = new_token()
    await database.run(lambda: ApiToken.create(tenant=tenant, name=name, digest=digest(token), hint=token[-4:]))
    return token


async def list_tokens(database: Database) -> list[ApiToken]:
    """All tokens, oldest first, also revoked ones."""
    return await database.run(lambda: ApiToken.all().order_by("created_at"))


async def revoke_token(database: Database, name: str) -> int:
    """Revoke the tokens of that name or id; connections that they opened stay until they end.

    Raises:
        NotFoundError: no valid token has it.
    """

    async def revoke() -> int:
        valid = ApiToken.filter(revoked_at=None)
        by_id = await valid.filter(id=name).update(revoked_at=timezone.now())
        return by_id or await valid.filter(name=name).update(revoked_at=timezone.now())

    count = await database.run(revoke)
    if not count:
        raise NotFoundError(f"No valid token is called {name!r}. `ragchat token list` shows them all.")
    return count
