"""What can go wrong between a client and the service.

    ClientError
    ├── ChatError       the service refused the question or failed to answer it; its own words
    └── NetworkError    it can't be reached, the connection died, or something else answered
    UnusableError       one way to the service does not work here; another one is tried

The client knows nothing of the service's own errors; it gets to see codes and sentences.
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of what a caller sees. ``str(error)`` is a sentence for a person."""


class ChatError(ClientError):
    """The service says no. ``code`` is an HTTP status, ``message`` the service's sentence."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class NetworkError(ClientError):
    """No answer, or no more of it. Says where it happened and what to do."""


class UnusableError(Exception):
    """No question can be sent this way, and none was sent: it is safe to send it another way."""
