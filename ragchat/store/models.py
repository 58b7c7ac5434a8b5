"""What is kept in the database. Every row belongs to a tenant, and every query names it.

Ids are 32 hexadecimal digits, as in RAGFlow, and come from `new_id`; migrations import it, so it stays here.
"""

from __future__ import annotations

import uuid
from typing import Any

from tortoise import fields
from tortoise.models import Model

APP = "ragchat"


def new_id() -> str:
    """A new random id of 32 hexadecimal digits."""
    return uuid.uuid4().hex


class Record(Model):
    """What all tables have in common."""

    id = fields.CharField(max_length=64, primary_key=True, default=new_id)
    tenant = fields.CharField(max_length=64, db_index=True)
    created_at = fields.DatetimeField(auto_now_add=True)
    updated_at = fields.DatetimeField(auto_now=True)

    class Meta:
        abstract = True


class Chat(Record):
    """A configured assistant: its prompt, its datasets and how it retrieves."""

    name = fields.CharField(max_length=255)
    description = fields.TextField(default="")
    dataset_ids: fields.Field[list[str]] = fields.JSONField(default=list)
    system = fields.TextField(default="")
    prologue = fields.TextField(default="")
    empty_response = fields.TextField(default="")
    top_n = fields.IntField(default=6)
    similarity_threshold = fields.FloatField(default=0.2)
    settings: fields.Field[dict[str, Any]] = fields.JSONField(default=dict)

    class Meta:
        app = APP
        table = "ragchat_chat"


class Session(Record):
    """One conversation of one user with one chat. An empty ``user`` means the tenant's own API token."""

    chat: fields.ForeignKeyRelation[Chat] = fields.ForeignKeyField("ragchat.Chat", related_name="sessions")
    user = fields.CharField(max_length=255, default="")
    name = fields.CharField(max_length=255, default="")

    class Meta:
        app = APP
        table = "ragchat_session"

    chat_id: str


class Message(Record):
    """One message of a session. ``reference`` is the final `ragchat.events.Reference` as JSON."""

    session: fields.ForeignKeyRelation[Session] = fields.ForeignKeyField(
        "ragchat.Session", related_name="messages"
    )
    position = fields.IntField()
    run_id = fields.CharField(max_length=64, default="", db_index=True)
    role = fields.CharField(max_length=16)
    content = fields.TextField()
    thinking = fields.TextField(default="")
    reference: fields.Field[dict[str, Any]] = fields.JSONField(default=dict)

    class Meta:
        app = APP
        table = "ragchat_message"
        unique_together = (("session", "position"),)
        ordering = ("position",)

    session_id: str


class Run(Record):
    """One generation: what was asked, how it ended. Its events are in the log, its text in its message."""

    kind = fields.CharField(max_length=16, default="chat")
    user = fields.CharField(max_length=255, default="")
    chat_id = fields.CharField(max_length=64, default="")
    session_id = fields.CharField(max_length=64, default="", db_index=True)
    message_id = fields.CharField(max_length=64, default="")
    status = fields.CharField(max_length=16, default="pending")
    finish_reason = fields.CharField(max_length=16, default="")
    last_seq = fields.IntField(default=0)
    usage: fields.Field[dict[str, Any]] = fields.JSONField(default=dict)
    error: fields.Field[dict[str, Any]] = fields.JSONField(default=dict)
    finished_at = fields.DatetimeField(null=True)

    class Meta:
        app = APP
        table = "ragchat_run"


class Dataset(Record):
    """A named collection of documents. The counts are kept by `ragchat.rag.index`, whose ranking needs them."""

    name = fields.CharField(max_length=128)
    description = fields.TextField(default="")
    chunk_count = fields.IntField(default=0)
    token_count = fields.BigIntField(default=0)

    class Meta:
        app = APP
        table = "ragchat_dataset"
        unique_together = (("tenant", "name"),)


class Document(Record):
    """One source text. ``source`` tells where it came from, ``digest`` is the SHA-256 of its bytes.

    ``status`` is RAGFlow's ``run``: UNSTART, RUNNING, CANCEL, DONE or FAIL, with the reason in ``error``.
    """

    dataset: fields.ForeignKeyRelation[Dataset] = fields.ForeignKeyField(
        "ragchat.Dataset", related_name="documents"
    )
    name = fields.CharField(max_length=255)
    source = fields.TextField(default="")
    digest = fields.CharField(max_length=64, default="", db_index=True)
    media_type = fields.CharField(max_length=128, default="")
    size = fields.BigIntField(default=0)
    status = fields.CharField(max_length=16, default="UNSTART")
    error = fields.TextField(default="")
    chunk_count = fields.IntField(default=0)

    class Meta:
        app = APP
        table = "ragchat_document"

    dataset_id: str


class Chunk(Record):
    """A piece of a document, small enough to be cited. ``positions`` as in `ragchat.events.Passage`."""

    document: fields.ForeignKeyRelation[Document] = fields.ForeignKeyField(
        "ragchat.Document", related_name="chunks"
    )
    dataset_id = fields.CharField(max_length=64, db_index=True)
    position = fields.IntField()
    content = fields.TextField()
    positions: fields.Field[list[list[int]]] = fields.JSONField(default=list)

    class Meta:
        app = APP
        table = "ragchat_chunk"
        unique_together = (("document", "position"),)

    document_id: str


class ApiToken(Record):
    """An API token: only its SHA-256 is kept, and its last characters so that a person can tell it apart."""

    name = fields.CharField(max_length=255)
    digest = fields.CharField(max_length=64, unique=True)
    hint = fields.CharField(max_length=8)
    last_used_at = fields.DatetimeField(null=True)
    revoked_at = fields.DatetimeField(null=True)

    class Meta:
        app = APP
        table = "ragchat_api_token"
