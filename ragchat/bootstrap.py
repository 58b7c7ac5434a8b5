"""What a new database is given, so that there is something to talk to: the chat ``default`` over our own docs."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from tortoise.exceptions import IntegrityError

from ragchat.auth.identity import DEFAULT_TENANT
from ragchat.rag.ingest import Ingester
from ragchat.store.database import Database
from ragchat.store.models import Chat

DEFAULT_CHAT: Final = "default"
DOCUMENTATION: Final = "ragchat-docs"
