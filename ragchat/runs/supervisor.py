"""Owns the runs of this process: starts them, cancels them, ends them, and lets none outlive the service.

A run belongs to the application, never to the connection that asked for it. Each run has two tasks: one
*produces* (it iterates the backend and may be cancelled at any moment) and one *concludes* (it is never
cancelled, so that every run gets its one terminal event and its message is saved before anyone sees it).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from ragchat.backends.contract import PIECES, Finish, Piece
from ragchat.errors import ConflictError, DrainingError, RagChatError, UnavailableError
from ragchat.events import STATUS_OF, Done, Error, Event, Header, Reference, RunStatus, Status, Transcript
from ragchat.logs.contract import Log
from ragchat.runs.writer import Writer
from ragchat.store.database import storable

logger = logging.getLogger(__name__)

_CLOSING = 1.0
"""Seconds a cancelled backend gets to let go before its run is ended without it."""


class Conclusion(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended: what is saved, and what its last events say."""

    transcript: Transcript
    finish: Finish
    error: Error | None
    reference: Reference | None
    last_seq: int

    @property
    def status(self) -> RunStatus:
        """The run's final status."""
        return STATUS_OF[self.finish.reason]


class Work(Protocol):
    """What a run does."""

    async def begin(self) -> None:
        """Save what was asked. Called once, before anything is produced.

        Raises:
            RagChatError: it can't be saved; there will be no run then.
        """
        ...

    def produce(self) -> AsyncGenerator[Piece, None]:
        """Yield what happens, and `Finish` at the end; without it the run has failed."""
        ...

    def cite(self, transcript: Transcript) -> Reference | None:
        """The final reference of a finished text."""
        ...

    async def save(self, conclusion: Conclusion) -> None:
        """Save the message and the run. Called once, before the terminal event is shown.

        Raises:
            RagChatError: it can't be saved; the run then fails, and its text is only in the log.
        """
        ...


@dataclass(eq=False)
class _Running:
    header: Header
    work: Work
    writer: Writer
    producer: asyncio.Task[Finish]
    stop: asyncio.Future[Finish | Error]
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Runs work and writes what happens to the log.

    Args:
        log: where events go.
        max_runs: how many runs may be going on at once.
        run_timeout: seconds after which a run is ended with its text so far.
    """

    def __init__(self, log: Log, *, max_runs: int, run_timeout: float) -> None:
        self._log = log
        self._max_runs = max_runs
        self._run_timeout = run_timeout
        self._starting: dict[str, Header] = {}
        self._running: dict[str, _Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False

    async def start(self, header: Header, work: Work) -> None:
        """Start a run; returns as soon as its log exists. A caller that is cancelled meanwhile stops nothing.

        Raises:
            DrainingError: the service is shutting down.
            UnavailableError: as many runs as allowed are going on.
            ConflictError: a run is going on in the session.
            RagChatError: whatever ``work.begin`` raises.
        """
        self._admit(header)
        self._starting[header.run_id] = header
        await asyncio.shield(self._own(self._begin(header, work)))

    def busy(self, session_id: str) -> str | None:
        """The id of the run that is going on in a session, if there is one."""
        headers = [*self._starting.values(), *(run.header for run in self._running.values())]
        return next((header.run_id for header in headers if header.session_id == session_id), None)

    def work(self, run_id: str) -> Work | None:
        """What a run does that is going on here."""
        run = self._running.get(run_id)
        return run.work if run is not None else None

    def cancel(self, run_id: str) -> bool:
        """Stop a run, keeping its text so far. False when it is not going on here; calling again is harmless."""
        return self._stop(run_id, Finish("cancelled"))

    async def ended(self, run_id: str) -> None:
        """Wait until a run is no longer going on here."""
        run = self._running.get(run_id)
        if run is not None:
            await run.ended.wait()

    async def drain(self, seconds: float) -> None:
        """Admit no more runs, let the running ones go on for ``seconds``, then end them with their text so far."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        interruption = Error(
            DrainingError.code,
            "The server was restarted before the answer was complete. Ask again.",
            retryable=True,
        )
        while self._tasks:  # also those that are still beginning
            for run_id in list(self._running):
                self._stop(run_id, interruption)
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    def _own(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _admit(self, header: Header) -> None:
        if self._draining:
            raise DrainingError("This server is being restarted. Ask again in a moment.", retry_after=1)
        if len(self._starting) + len(self._running) >= self._max_runs:
            raise UnavailableError(
                f"{self._max_runs} answers are being written at the moment. Ask again in a few seconds.",
                retry_after=2,
            )
        if header.session_id and self.busy(header.session_id):
            raise ConflictError(
                "The session is still answering the question before. Wait for its end, or cancel it."
            )

    async def _begin(self, header: Header, work: Work) -> None:
        try:
            await work.begin()
            await self._log.create(header)
            writer = Writer(self._log, header)
            await writer.put(Status(RunStatus.RUNNING))
            stop: asyncio.Future[Finish | Error] = asyncio.get_running_loop().create_future()
            producer = asyncio.create_task(_produce(work, writer, stop))
            run = _Running(header, work, writer, producer, stop)
            self._running[header.run_id] = run
        finally:
            del self._starting[header.run_id]
        self._own(self._conclude(run))

    def _stop(self, run_id: str, why: Finish | Error) -> bool:
        run = self._running.get(run_id)
        if run is None:
            return False
        _halt(run, why)
        return True

    async def _conclude(self, run: _Running) -> None:
        run_id = run.header.run_id
        try:
            finish, error = await self._outcome(run)
            await self._end(run, finish, error)
        except Exception:
            logger.exception("The run %s could not be ended.", run_id)
        finally:
            del self._running[run_id]
            run.ended.set()
            await run.writer.close()

    async def _outcome(self, run: _Running) -> tuple[Finish, Error | None]:
        """Wait for the producer, stop it when it has to be stopped, and say how it ended."""
        either: set[asyncio.Future[Any]] = {run.producer, run.stop}
        await asyncio.wait(either, timeout=self._run_timeout, return_when=asyncio.FIRST_COMPLETED)
        if not run.stop.done() and not run.producer.done():
            sentence = f"The answer took longer than {self._run_timeout:.0f} s and was ended here."
            _halt(run, Error(UnavailableError.code, sentence, retryable=True))
        await asyncio.wait({run.producer}, timeout=_CLOSING)
        return _judge(run)

    async def _end(self, run: _Running, finish: Finish, error: Error | None) -> None:
        """Save the message, then show the terminal events: in this order, so that they always agree."""
        writer, header = run.writer, run.header
        reference: Reference | None = None
        await writer.flush()
        try:
            reference = run.work.cite(writer.transcript)
            last_seq = writer.last + 1 + (error is not None) + (reference is not None)
            await run.work.save(
                Conclusion(
                    transcript=writer.transcript,
                    finish=finish,
                    error=error,
                    reference=reference,
                    last_seq=last_seq,
                )
            )
        except Exception as failure:  # whatever it is: a run without its end would keep its viewers for ever
            logger.exception("The answer of the run %s could not be saved.", header.run_id)
            error = error or _as_event(failure, "The answer could not be saved.", header.run_id)
            finish = Finish("error", finish.usage)
        terminal: list[Event | None] = [error, reference]
        for event in terminal:
            if event is not None:
                await writer.put(event)
        await writer.put(Done(finish.reason, finish.usage, header.message_id, header.session_id))
        await writer.flush()


async def _produce(work: Work, writer: Writer, stop: asyncio.Future[Finish | Error]) -> Finish:
    async with aclosing(work.produce()) as pieces:
        async for piece in pieces:
            if stop.done():
                break  # it was told to stop and did not listen; what it says now is no part of the answer
            if isinstance(piece, Finish):
                return piece
            if not isinstance(piece, PIECES) or (isinstance(piece, Reference) and piece.final):
                raise TypeError(f"A backend may not yield {type(piece).__name__}, or a final reference.")
            await writer.put(piece)
    raise RuntimeError("The backend stopped without saying how it finished.")


def _halt(run: _Running, why: Finish | Error) -> None:
    if not run.stop.done():
        run.stop.set_result(why)
    run.producer.cancel()


def _judge(run: _Running) -> tuple[Finish, Error | None]:
    """How a run ended, from what its producer did and from who stopped it."""
    finished = run.producer.done() and not run.producer.cancelled()
    failure = run.producer.exception() if finished else asyncio.CancelledError("nobody asked for it")
    if failure is None:
        return run.producer.result(), None
    if run.stop.done():
        why = run.stop.result()
        return (why, None) if isinstance(why, Finish) else (Finish("error"), why)
    if isinstance(failure, RagChatError):
        logger.warning("The run %s failed: %s", run.header.run_id, failure)
    else:
        logger.error("The run %s failed.", run.header.run_id, exc_info=failure)
    return Finish("error"), _as_event(failure, "The answer failed.", run.header.run_id)


def _as_event(failure: BaseException, what: str, run_id: str) -> Error:
    if isinstance(failure, RagChatError):
        return Error(failure.code, storable(f"{what} {failure}"), failure.retryable)
    return Error(500, f"{what} This is a defect; the server's log tells more about the run {run_id}.")
