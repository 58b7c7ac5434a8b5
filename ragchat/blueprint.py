"""The composition root: builds the parts, mounts the routes, opens and closes everything.

`RagChat` is the whole service as one object. An application mounts its ``blueprint`` under any prefix and
needs to know nothing else; the parts it wants to bring itself (who its users are, what answers, where passages
come from) go into the constructor.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, suppress

from quart import Blueprint, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from ragchat.api.health import Health
from ragchat.api.page import Page
from ragchat.api.runs import RunRoutes
from ragchat.auth.identity import Access, Authenticator, Identify
from ragchat.backends.contract import Backend
from ragchat.backends.extractive import ExtractiveBackend
from ragchat.backends.openai import OpenAIBackend
from ragchat.bootstrap import bootstrap
from ragchat.codecs import ragflow
from ragchat.errors import RagChatError
from ragchat.logs.memory import MemoryLog
from ragchat.rag.contract import Retriever
from ragchat.rag.retrieve import IndexRetriever
from ragchat.runs.chat import ChatRuns
from ragchat.runs.supervisor import Supervisor
from ragchat.settings import Settings, load
from ragchat.store.database import Database
from ragchat.store.sessions import end_lost_runs
from ragchat.transports.sse import Completion, error_response
from ragchat.transports.websocket import ChatSocketRoute, serve_health

logger = logging.getLogger(__name__)

_CLOSING = 2.0
"""Seconds that answers get to be saved when the service is closed without having been drained."""


class RagChat:
    """The service: build one, mount its ``blueprint``, and it opens and closes with the application.

    Args:
        settings: read from the environment when left out.
        identify: the host's own way to know its users; it replaces API tokens and JWTs.
        backend: what answers; chosen by the settings when left out.
        retriever: where passages come from; ragchat's own index when left out.

    Raises:
        ConfigurationError: a setting does not make sense.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        identify: Identify | None = None,
        backend: Backend | None = None,
        retriever: Retriever | None = None,
    ) -> None:
        self.settings = settings or load()
        self.database = Database(self.settings.database)
        self.log = MemoryLog(self.settings.log_retention)
        self.backend = backend or _backend(self.settings)
        self.retriever = retriever or IndexRetriever(self.database)
        self.supervisor = Supervisor(
            self.log, max_runs=self.settings.max_runs, run_timeout=self.settings.run_timeout
        )
        self.runs = ChatRuns(self.database, self.supervisor, self.retriever, self.backend, self.settings)
        self._draining = asyncio.Event()
        own = Authenticator(self.settings, self.database).identify
        self._access = Access(identify or own, ambient=identify is not None)
        self.blueprint = self._mount()

    async def open(self) -> None:
        """Open the database and make sure that there is something to talk to.

        Raises:
            ConfigurationError: the database can't be used.
        """
        await self.database.open()
        if lost := await end_lost_runs(self.database):
            logger.warning("%d answers were lost when the server ended the last time.", lost)
        await bootstrap(self.database)

    async def drain(self) -> None:
        """Say goodbye: admit nobody, let answers finish for a while, end the rest with their text so far."""
        self._draining.set()
        await self.supervisor.drain(self.settings.drain_timeout)

    async def close(self) -> None:
        """End what is still going on, and let go of everything whatever goes wrong. May be called again."""
        async with AsyncExitStack() as parts:
            parts.push_async_callback(self.database.close)
            parts.push_async_callback(self.log.close)
            parts.push_async_callback(self.backend.close)
            self._draining.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSING):
                    await self.supervisor.drain(0)

    def _mount(self) -> Blueprint:
        blueprint = Blueprint("ragchat", __name__)
        blueprint.before_app_serving(self.open)
        blueprint.after_app_serving(self.close)
        blueprint.register_error_handler(Exception, show_error)
        socket = ChatSocketRoute(self._access, self.log, self.runs, self.settings, self._draining)
        completion = Completion(self._access, self.log, self.runs, self.settings)
        health = Health(self.database, self._draining)
        runs = RunRoutes(self._access, self.runs)
        page = Page()

        blueprint.add_websocket("/v1/ws/chat", "chat_socket", socket.serve)
        blueprint.add_websocket("/v1/ws/health", "health_socket", serve_health)
        blueprint.add_url_rule(
            "/v1/conversation/completion", "completion", completion.respond, methods=["GET", "POST"]
        )
        blueprint.add_url_rule("/api/v1/runs/<run_id>/cancel", "cancel_run", runs.cancel, methods=["POST"])
        blueprint.add_url_rule("/livez", "livez", health.live)
        blueprint.add_url_rule("/readyz", "readyz", health.ready)
        blueprint.add_url_rule("/", "page", page.index)
        blueprint.add_url_rule("/static/<path:name>", "page_file", page.file)
        return blueprint


def _backend(settings: Settings) -> Backend:
    return OpenAIBackend.from_settings(settings) if settings.openai_base_url else ExtractiveBackend()


async def show_error(error: Exception) -> Response:
    """Whatever goes wrong before the first byte of an answer, as a frame that its client can read."""
    if isinstance(error, RagChatError):
        return error_response(error)
    if isinstance(error, HTTPException) and error.code is not None:
        body = ragflow.error(error.code, error.description or error.name)
        headers = {"Allow": ", ".join(error.valid_methods or [])} if isinstance(error, MethodNotAllowed) else {}
        return Response(body, status=error.code, content_type="application/json", headers=headers)
    logger.error("request failed", exc_info=error)
    return error_response(RagChatError("This is a defect; the server's log tells more."))
