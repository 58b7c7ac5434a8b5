"""Our few queries on chats, sessions, messages and runs.

The database is used before the model speaks and after it has spoken, never while it does.
"""

from __future__ import annotations

from typing import Any

import msgspec
from tortoise import timezone
from tortoise.exceptions import IntegrityError

from ragchat.errors import ConflictError
from ragchat.events import Error, Header, RunStatus
from ragchat.store.database import Database, storable
from ragchat.store.models import Chat, Message, Run, Session

NAME_LENGTH = 60
"""Characters of the first question that become the session's name."""


async def find_chat(database: Database, tenant: str, chat_id: str) -> Chat:
    """A tenant's chat.

    Raises:
        NotFoundError: it has none with this id.
    """
    return await database.get(Chat, f"There is no chat {chat_id!r}.", id=chat_id, tenant=tenant)


async def give_dataset(database: Database, tenant: str, chat_id: str, dataset_id: str) -> bool:
    """Let a tenant's chat read a dataset; False when it does already."""

    async def give() -> bool:
        mine = Chat.filter(id=chat_id, tenant=tenant)
        await mine.update(updated_at=timezone.now())  # whoever gives it another one at the same moment waits
        chat = await mine.get()
        if dataset_id in chat.dataset_ids:
            return False
        await mine.update(dataset_ids=[*chat.dataset_ids, dataset_id])
        return True

    return await database.transaction(give)


async def find_session(database: Database, tenant: str, user: str, session_id: str) -> Session:
    """A session that the user may see; the empty user sees all of the tenant's.

    Raises:
        NotFoundError: there is none with this id.
    """
    missing = f"There is no session {session_id!r}. Leave `session_id` out to begin a new one."
    return await database.get(Session, missing, id=session_id, tenant=tenant, **_of(user))


async def find_run(database: Database, tenant: str, user: str, run_id: str) -> Run:
    """A run that the user may see; the empty user sees all of the tenant's.

    Raises:
        NotFoundError: there is none with this id.
    """
    return await database.get(Run, f"There is no run {run_id!r}.", id=run_id, tenant=tenant, **_of(user))


def _of(user: str) -> dict[str, str]:
    return {"user": user} if user else {}


async def history(database: Database, session_id: str, limit: int) -> list[Message]:
    """The last ``limit`` messages of a session that say something, oldest first."""
    if not limit:
        return []
    newest = await database.run(
        lambda: Message.filter(session_id=session_id, content__not="").order_by("-position").limit(limit)
    )
    return newest[::-1]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question on its way into the database, and the run that will answer it."""

    header: Header
    tenant: str
    user: str
    text: str
    prologue: str = ""
    opens_session: bool = False


async def begin_run(database: Database, question: Question) -> None:
    """Save the run, its question and, for a first question, its session: all or nothing.

    Raises:
        ConflictError: another question came into the same session at the same moment.
    """
    header, tenant, text = question.header, question.tenant, storable(question.text)

    async def begin() -> None:
        await Run.create(
            id=header.run_id, tenant=tenant, kind=header.kind, user=question.user, chat_id=header.chat_id,
            session_id=header.session_id, message_id=header.message_id, status=RunStatus.RUNNING,
        )  # fmt: skip
        if question.opens_session:
            await Session.create(
                id=header.session_id, tenant=tenant, chat_id=header.chat_id, user=question.user,
                name=" ".join(text.split())[:NAME_LENGTH],
            )  # fmt: skip
            if question.prologue:
                await _add_message(question, role="assistant", content=question.prologue)
        await _add_message(question, role="user", content=text, run_id=header.run_id)

    try:
        await database.transaction(begin)
    except IntegrityError:
        raise ConflictError("Another question came into this session at the same moment. Ask again.") from None


async def end_run(database: Database, question: Question, message: dict[str, Any], run: dict[str, Any]) -> None:
    """Save the answer (``message`` holds columns of `Message`) and how its run ended (columns of `Run`).

    Saving it again changes nothing: a commit may have succeeded although its reply was lost.
    """
    header = question.header

    async def end() -> None:
        await Run.filter(id=header.run_id).update(**storable(run), finished_at=timezone.now())
        if await Message.exists(id=header.message_id):
            return
        columns = storable(message)
        await _add_message(question, id=header.message_id, role="assistant", run_id=header.run_id, **columns)
        await Session.filter(id=header.session_id).update(updated_at=timezone.now())

    await database.transaction(end)


async def end_lost_runs(database: Database) -> int:
    """Mark the runs that a process left behind when it died; their events died with it. Returns how many.

    A process that is still alive after all (a rolling restart) overwrites the mark when its run ends.
    """
    error = Error(500, "The server ended before the answer was complete. Ask again.", retryable=True)
    lost: dict[str, Any] = {
        "status": RunStatus.FAILED,
        "finish_reason": "error",
        "error": msgspec.to_builtins(error),
        "finished_at": timezone.now(),
    }
    return await database.run(lambda: Run.filter(status=RunStatus.RUNNING).update(**lost))


async def _add_message(question: Question, **columns: Any) -> None:
    session_id = question.header.session_id
    last = await Message.filter(session_id=session_id).order_by("-position").first()
    position = last.position + 1 if last is not None else 0
    await Message.create(tenant=question.tenant, session_id=session_id, position=position, **columns)
