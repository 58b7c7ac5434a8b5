"""The public API is what `ragchat/__init__.py` says, and nothing more."""

from __future__ import annotations

import types

import ragchat


def test_the_public_names_are_these() -> None:
    assert ragchat.__all__ == [
        "Backend",
        "BackendError",
        "Finish",
        "Observation",
        "Passage",
        "Principal",
        "Prompt",
        "Query",
        "RagChat",
        "RagChatError",
        "Reference",
        "Replace",
        "Retriever",
        "Settings",
        "Thinking",
        "Token",
        "ToolCall",
        "Turn",
        "UnauthenticatedError",
        "UnavailableError",
        "Usage",
        "create_app",
    ]
    public = {name for name, value in vars(ragchat).items() if not name.startswith("_")}
    modules = {name for name in public if isinstance(getattr(ragchat, name), types.ModuleType)}
    assert public - modules == set(ragchat.__all__)
