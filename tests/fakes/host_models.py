"""The models of an application that mounts ragchat and has a Tortoise of its own."""

from __future__ import annotations

from tortoise import fields
from tortoise.models import Model


class Note(Model):
    """A note."""

    id = fields.IntField(primary_key=True)
    text = fields.TextField()
    written_at = fields.DatetimeField(auto_now_add=True)

    class Meta:
        table = "note"
