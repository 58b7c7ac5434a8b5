"""From a question to a run: check it, save it, retrieve, prompt the backend, save the answer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from ragchat.auth.identity import Principal
from ragchat.backends.contract import Backend, Finish, Piece, Prompt, Turn
from ragchat.errors import DatabaseError, NotFoundError, RequestError, TooLargeError
from ragchat.events import Header, Passage, Reference, Replace, Thinking, Token, Transcript
from ragchat.rag.cite import cite, count_documents
from ragchat.rag.contract import Query, Retriever
from ragchat.rag.prompt import build_turns
from ragchat.runs.supervisor import Conclusion, Supervisor
from ragchat.settings import Settings
from ragchat.store import sessions
from ragchat.store.database import Database, storable
from ragchat.store.models import Chat, Message, Run, new_id

_PAUSES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between attempts to save an answer."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A question as a client sends it (docs/protocol.md, "The request")."""

    chat_id: str
    question: str
    session_id: str | None = None
    stream: bool = True
    kb_ids: tuple[str, ...] | None = None
    doc_ids: tuple[str, ...] | None = None
    files: tuple[str, ...] = ()


class ChatRuns:
    """Starts and finds the runs of kind ``chat``."""

    def __init__(
        self,
        database: Database,
        supervisor: Supervisor,
        retriever: Retriever,
        backend: Backend,
        settings: Settings,
    ) -> None:
        self._database = database
        self._supervisor = supervisor
        self._retriever = retriever
        self._backend = backend
        self._settings = settings

    async def ask(self, principal: Principal, ask: Ask) -> Header:
        """Save the question and start its run.

        Raises:
            RequestError: the question can't be asked like this; nothing was saved.
            UnavailableError: no more runs can start now; nothing was saved.
        """
        ask = msgspec.structs.replace(ask, question=storable(ask.question))
        self._check(ask)
        chat = await sessions.find_chat(self._database, principal.tenant, ask.chat_id)
        query = _narrowed(chat, principal.tenant, ask)
        earlier: list[Message] = []
        if ask.session_id:
            await self._check_session(principal, chat, ask.session_id)
            earlier = await sessions.history(self._database, ask.session_id, self._settings.history_messages)
        header = Header(
            run_id=new_id(), chat_id=chat.id, session_id=ask.session_id or new_id(), message_id=new_id()
        )
        question = sessions.Question(
            header=header, tenant=principal.tenant, user=principal.user, text=ask.question,
            prologue=chat.prologue, opens_session=not ask.session_id,
        )  # fmt: skip
        work = ChatWork(
            database=self._database, retriever=self._retriever, backend=self._backend,
            chat=chat, question=question, query=query, earlier=earlier,
        )  # fmt: skip
        await self._supervisor.start(header, work)
        return header

    async def stop(self, principal: Principal, run_id: str) -> None:
        """Stop a run; harmless when it has ended already. Works while the database is away.

        Raises:
            NotFoundError: the principal has no such run.
        """
        work = self._supervisor.work(run_id)
        if isinstance(work, ChatWork) and work.belongs_to(principal):
            self._supervisor.cancel(run_id)
        else:
            await self.find(principal, run_id)

    async def cancel(self, principal: Principal, run_id: str) -> Run:
        """`stop` a run, wait for its end, and return how it ended.

        Raises:
            NotFoundError: the principal has no such run.
            DatabaseError: the run was stopped, but nobody can say how it ended.
        """
        await self.stop(principal, run_id)
        await self._supervisor.ended(run_id)
        return await self.find(principal, run_id)

    async def find(self, principal: Principal, run_id: str) -> Run:
        """A run that the principal may follow.

        Raises:
            NotFoundError: there is none with this id.
        """
        return await sessions.find_run(self._database, principal.tenant, principal.user, run_id)

    def _check(self, ask: Ask) -> None:
        if not ask.question.strip():
            raise RequestError("The `question` is empty. Send the text that should be answered.")
        if len(ask.question) > self._settings.max_question_chars:
            raise TooLargeError(
                f"The question has {len(ask.question)} characters; at most {self._settings.max_question_chars} "
                "are accepted. Shorten it, or put the text into a document."
            )
        if ask.files:
            raise NotFoundError(f"There is no uploaded file {ask.files[0]!r}.")

    async def _check_session(self, principal: Principal, chat: Chat, session_id: str) -> None:
        session = await sessions.find_session(self._database, principal.tenant, principal.user, session_id)
        if session.chat_id != chat.id:
            raise NotFoundError(f"There is no session {session_id!r} in the chat {chat.id!r}.")


class ChatWork:
    """One answer: retrieve, prompt, stream the backend, save the message."""

    def __init__(
        self,
        *,
        database: Database,
        retriever: Retriever,
        backend: Backend,
        chat: Chat,
        question: sessions.Question,
        query: Query,
        earlier: Sequence[Message],
    ) -> None:
        self._database = database
        self._retriever = retriever
        self._backend = backend
        self._chat = chat
        self._question = question
        self._earlier = earlier
        asked = tuple(message.content for message in earlier if message.role == "user")
        self._query = msgspec.structs.replace(query, earlier=asked)

    def belongs_to(self, principal: Principal) -> bool:
        """Whether the principal may see and stop it."""
        return principal.tenant == self._question.tenant and principal.user in {"", self._question.user}

    async def begin(self) -> None:
        await sessions.begin_run(self._database, self._question)

    async def produce(self) -> AsyncGenerator[Piece, None]:
        passages = await self._retriever.retrieve(self._query)
        yield _reference(passages)
        if not passages and self._chat.empty_response:
            yield Token(self._chat.empty_response)
            yield Finish()
            return
        async with aclosing(self._backend.answer(self._prompt(passages))) as pieces:
            async for piece in pieces:
                yield _storable(piece)

    def cite(self, transcript: Transcript) -> Reference | None:
        return cite(transcript.reference, transcript.text) if transcript.reference else None

    async def save(self, conclusion: Conclusion) -> None:
        transcript, finish, error = conclusion.transcript, conclusion.finish, conclusion.error
        message: dict[str, Any] = {
            "content": transcript.text,
            "thinking": transcript.thinking,
            "reference": msgspec.to_builtins(conclusion.reference) if conclusion.reference else {},
        }
        run: dict[str, Any] = {
            "status": conclusion.status,
            "finish_reason": finish.reason,
            "last_seq": conclusion.last_seq,
            "usage": msgspec.to_builtins(finish.usage) if finish.usage else {},
            "error": msgspec.to_builtins(error) if error else {},
        }
        await self._persist(message, run)

    async def _persist(self, message: dict[str, Any], run: dict[str, Any]) -> None:
        """Save, and be patient with a database that is being restarted: the answer is worth some seconds."""
        for pause in (*_PAUSES, None):
            try:
                await sessions.end_run(self._database, self._question, message, run)
            except DatabaseError:
                if pause is None:
                    raise
                await asyncio.sleep(pause)
            else:
                break

    def _prompt(self, passages: Sequence[Passage]) -> Prompt:
        history = [Turn("user" if m.role == "user" else "assistant", m.content) for m in self._earlier]
        question = self._query.question
        return Prompt(
            question=question,
            turns=build_turns(self._chat.system, passages, history, question),
            passages=tuple(passages),
            user=_opaque(self._question),
        )


def _opaque(question: sessions.Question) -> str:
    """A name for who asks, the same each time, that tells a model's provider nothing."""
    return hashlib.sha256(f"{question.tenant}\0{question.user}".encode()).hexdigest()[:32]


def _storable(piece: Piece) -> Piece:
    """What can't be saved is not shown either: the message is what was streamed."""
    match piece:
        case Token(data):
            return Token(storable(data))
        case Thinking(content):
            return Thinking(storable(content))
        case Replace(data):
            return Replace(storable(data))
        case _:
            return piece


def _narrowed(chat: Chat, tenant: str, ask: Ask) -> Query:
    """Where the answer may come from: what the chat may read, narrowed by the request and never widened."""
    datasets = tuple(chat.dataset_ids)
    if ask.kb_ids is not None:
        datasets = tuple(dataset for dataset in datasets if dataset in ask.kb_ids)
        if not datasets:
            raise NotFoundError(
                "None of the `kb_ids` is a dataset of this chat. Leave `kb_ids` out to use them all."
            )
    return Query(
        tenant=tenant,
        question=ask.question.strip(),
        datasets=datasets,
        documents=ask.doc_ids,
        limit=chat.top_n,
        threshold=chat.similarity_threshold,
    )


def _reference(passages: Sequence[Passage]) -> Reference:
    return Reference(tuple(passages), count_documents(list(passages)), len(passages))
