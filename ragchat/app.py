"""The standalone service: an application that consists of the blueprint and its API reference."""

from __future__ import annotations

from types import TracebackType

from quart import Quart
from quart_schema import Info, QuartSchema
from werkzeug.exceptions import HTTPException

from ragchat.api.health import VERSION
from ragchat.blueprint import RagChat, show_error
from ragchat.errors import RagChatError


def create_app(ragchat: RagChat | None = None) -> Quart:
    """A Quart application with ragchat at its root.

    Args:
        ragchat: the service to mount; one with the settings of the environment when left out.

    Raises:
        ConfigurationError: a setting does not make sense.
    """
    app = _Service("ragchat", static_folder=None)
    QuartSchema(
        app, info=Info(title="ragchat", version=VERSION), openapi_path="/openapi.json",
        swagger_ui_path=None, redoc_ui_path=None, scalar_ui_path=None,
    )  # fmt: skip
    app.register_error_handler(HTTPException, show_error)  # for paths and methods that no route has
    app.register_blueprint((ragchat or RagChat()).blueprint)
    return app


class _Service(Quart):
    def log_exception(
        self, exception_info: tuple[type, BaseException, TracebackType] | tuple[None, None, None]
    ) -> None:
        """Log what nobody expected. Why the service can't start is told by whoever started it, in one line."""
        if not isinstance(exception_info[1], RagChatError):
            super().log_exception(exception_info)
