"""Lets requests and sockets in, or says why not."""

from __future__ import annotations

from quart import request, websocket

from ragchat.auth.identity import Identify, Principal
from ragchat.errors import UnauthenticatedError


class Access:
    """Who may speak, whoever decides it.

    Args:
        identify: finds out who speaks.
    """

    def __init__(self, identify: Identify) -> None:
        self._identify = identify

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


def _known(principal: Principal | None) -> Principal:
    if principal is None:
        raise UnauthenticatedError("You are not signed in. Sign in and try again.")
    return principal
