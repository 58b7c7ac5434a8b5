"""Every error of ragchat, as one tree.

    RagChatError                    500
    ├── ConfigurationError                what to change before the service can start; exit code 1
    ├── RequestError                400   the client's doing; the sentence says what to send instead
    │   ├── UnauthenticatedError    401   close 1008
    │   ├── NotFoundError           404   also for what belongs to another tenant
    │   ├── ConflictError           409   the session is busy, the id is taken
    │   ├── GoneError               410   the run's log is no longer kept
    │   ├── TooLargeError           413   close 1009
    │   ├── RateLimitedError        429   close 1008
    │   └── DocumentError           400   a file that can't be read, with the reason
    ├── UnavailableError            503   close 1013; come back later
    │   ├── DrainingError           503   close 1012; this worker is being restarted
    │   └── DatabaseError           503   the database can't be reached, is locked or full
    ├── BackendError                500   the model's server failed
    │   └── BackendBusyError        503   … and asks us to come back later
    └── FencedError                 500   two writers wrote one log; the second one stops

An error that a person may see carries everything that any transport needs to show it: the HTTP status (which
is also the ``code`` of the frames), the WebSocket close code, a sentence, and whether the same request may
work later. Transports translate, they never decide.
"""

from __future__ import annotations

from typing import ClassVar


class RagChatError(Exception):
    """Base of all. ``str(error)`` is the public sentence: what happened, where, and what to do."""

    code: ClassVar[int] = 500
    close_code: ClassVar[int] = 1011
    retryable: bool = False

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which the request may be repeated, for ``Retry-After``; None when nobody knows."""


class ConfigurationError(RagChatError):
    """The service can't start as it is configured. Names the setting, its value and the remedy."""


class RequestError(RagChatError):
    """The request can't be understood or is not complete."""

    code = 400
    close_code = 1008


class UnauthenticatedError(RequestError):
    """No credentials, or wrong, expired or revoked ones."""

    code = 401


class NotFoundError(RequestError):
    """No such thing, or none that this principal may know of."""

    code = 404


class ConflictError(RequestError):
    """The request is fine, but not now: the session has an active run, the name is taken."""

    code = 409
    retryable = True


class GoneError(RequestError):
    """The run's events are no longer kept; its message is in the session."""

    code = 410


class TooLargeError(RequestError):
    """More bytes, characters or items than this service accepts."""

    code = 413
    close_code = 1009


class RateLimitedError(RequestError):
    """Too many requests or connections."""

    code = 429
    retryable = True


class DocumentError(RequestError):
    """A document can't be read; the sentence names the reason."""


class UnavailableError(RagChatError):
    """The service can't do it now, but will be able to later."""

    code = 503
    close_code = 1013
    retryable = True


class DrainingError(UnavailableError):
    """This worker is going away; another one or the next one will answer."""

    close_code = 1012


class DatabaseError(UnavailableError):
    """The database can't be reached, is locked, or has no room left."""


class BackendError(RagChatError):
    """The server behind us failed. ``retryable`` says whether asking again makes sense."""

    def __init__(self, message: str, *, retryable: bool = False, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.retryable = retryable


class BackendBusyError(BackendError):
    """The server behind us is overloaded or limits our rate."""

    code = 503
    close_code = 1013


class FencedError(RagChatError):
    """An append found that somebody else has written to this run's log."""
