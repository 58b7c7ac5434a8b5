"""ragchat: streaming chat over your documents, as a Quart blueprint with a WebSocket and an SSE fallback.

This is the whole public API; everything below it may change without notice.
"""

from ragchat.app import create_app
from ragchat.auth.identity import Principal
from ragchat.backends.contract import Backend, Finish, Prompt, Turn
from ragchat.blueprint import RagChat
from ragchat.errors import BackendError, RagChatError, UnauthenticatedError, UnavailableError
from ragchat.events import Observation, Passage, Reference, Replace, Thinking, Token, ToolCall, Usage
from ragchat.rag.contract import Query, Retriever
from ragchat.settings import Settings

__all__ = [
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
