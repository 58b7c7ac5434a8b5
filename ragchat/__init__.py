"""ragchat: streaming chat over your documents, as a Quart blueprint with a WebSocket and an SSE fallback.

This is the whole public API; everything below it may change without notice.
"""

from ragchat.app import create_app
from ragchat.auth.identity import Principal
from ragchat.backends.contract import Backend, Finish, Prompt, Turn
from ragchat.blueprint import RagChat
from ragchat.errors import RagChatError
from ragchat.rag.contract import Query, Retriever
from ragchat.settings import Settings

__all__ = [
    "Backend",
    "Finish",
    "Principal",
    "Prompt",
    "Query",
    "RagChat",
    "RagChatError",
    "Retriever",
    "Settings",
    "Turn",
    "create_app",
]
