"""The standalone service: an application that consists of the blueprint and its API reference."""

from __future__ import annotations

from quart import Quart
from quart_schema import Info, QuartSchema

from ragchat.api.health import VERSION
from ragchat.blueprint import RagChat


def create_app(ragchat: RagChat | None = None) -> Quart:
    """A Quart application with ragchat at its root.

    Args:
        ragchat: the service to mount; one with the settings of the environment when left out.

    Raises:
        ConfigurationError: a setting does not make sense.
    """
    app = Quart("ragchat", static_folder=None)
    QuartSchema(
        app, info=Info(title="ragchat", version=VERSION), openapi_path="/openapi.json",
        swagger_ui_path=None, redoc_ui_path=None, scalar_ui_path=None,
    )  # fmt: skip
    app.register_blueprint((ragchat or RagChat()).blueprint)
    return app
