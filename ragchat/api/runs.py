"""Control over runs, by HTTP and therefore from anywhere."""

from __future__ import annotations

import msgspec
from quart import Response

from ragchat.auth.identity import Access
from ragchat.runs.chat import ChatRuns
from ragchat.store.models import Run


class RunRoutes:
    """``/api/v1/runs/…``."""

    def __init__(self, access: Access, runs: ChatRuns) -> None:
        self._access = access
        self._runs = runs

    async def cancel(self, run_id: str) -> Response:
        """Stop a run and keep its text so far; the same answer again when it has ended already.

        Raises:
            RequestError: nobody is signed in, or nobody knows this run.
        """
        principal = await self._access.request()
        run = await self._runs.cancel(principal, run_id)
        return Response(msgspec.json.encode(_shown(run)), content_type="application/json")


def _shown(run: Run) -> dict[str, object]:
    return {
        "run_id": run.id,
        "session_id": run.session_id,
        "status": run.status,
        "finish_reason": run.finish_reason or None,
        "last_seq": run.last_seq,
        "error": run.error or None,
    }
