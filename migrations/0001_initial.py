"""The first schema."""

from tortoise import fields, migrations
from tortoise.fields.base import OnDelete
from tortoise.migrations import operations as ops

from ragchat.store.models import new_id


class Migration(migrations.Migration):
    initial = True

    operations = [
        ops.CreateModel(
            name="ApiToken",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, default=new_id, unique=True, db_index=True, max_length=64),
                ),
                ("tenant", fields.CharField(db_index=True, max_length=64)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
                ("updated_at", fields.DatetimeField(auto_now=True, auto_now_add=False)),
                ("name", fields.CharField(max_length=255)),
                ("digest", fields.CharField(unique=True, max_length=64)),
                ("hint", fields.CharField(max_length=8)),
                ("last_used_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
                ("revoked_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={"table": "ragchat_api_token", "app": "ragchat", "pk_attr": "id"},
        ),
        ops.CreateModel(
            name="Chat",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, default=new_id, unique=True, db_index=True, max_length=64),
                ),
                ("tenant", fields.CharField(db_index=True, max_length=64)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
                ("updated_at", fields.DatetimeField(auto_now=True, auto_now_add=False)),
                ("name", fields.CharField(max_length=255)),
                ("description", fields.TextField(default="", unique=False)),
                ("dataset_ids", fields.JSONField(default=list)),
                ("system", fields.TextField(default="", unique=False)),
                ("prologue", fields.TextField(default="", unique=False)),
                ("empty_response", fields.TextField(default="", unique=False)),
                ("top_n", fields.IntField(default=6)),
                ("similarity_threshold", fields.FloatField(default=0.2)),
                ("settings", fields.JSONField(default=dict)),
            ],
            options={"table": "ragchat_chat", "app": "ragchat", "pk_attr": "id"},
        ),
        ops.CreateModel(
            name="Dataset",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, default=new_id, unique=True, db_index=True, max_length=64),
                ),
                ("tenant", fields.CharField(db_index=True, max_length=64)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
                ("updated_at", fields.DatetimeField(auto_now=True, auto_now_add=False)),
                ("name", fields.CharField(max_length=128)),
                ("description", fields.TextField(default="", unique=False)),
            ],
            options={
                "table": "ragchat_dataset",
                "app": "ragchat",
                "unique_together": (("tenant", "name"),),
                "pk_attr": "id",
            },
        ),
        ops.CreateModel(
            name="Document",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, default=new_id, unique=True, db_index=True, max_length=64),
                ),
                ("tenant", fields.CharField(db_index=True, max_length=64)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
                ("updated_at", fields.DatetimeField(auto_now=True, auto_now_add=False)),
                (
                    "dataset",
                    fields.ForeignKeyField(
                        "ragchat.Dataset",
                        source_field="dataset_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="documents",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("name", fields.CharField(max_length=255)),
                ("source", fields.TextField(default="", unique=False)),
                ("digest", fields.CharField(default="", db_index=True, max_length=64)),
                ("media_type", fields.CharField(default="", max_length=128)),
                ("size", fields.BigIntField(default=0)),
                ("status", fields.CharField(default="UNSTART", max_length=16)),
                ("error", fields.TextField(default="", unique=False)),
                ("chunk_count", fields.IntField(default=0)),
            ],
            options={"table": "ragchat_document", "app": "ragchat", "pk_attr": "id"},
        ),
        ops.CreateModel(
            name="Chunk",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, default=new_id, unique=True, db_index=True, max_length=64),
                ),
                ("tenant", fields.CharField(db_index=True, max_length=64)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
                ("updated_at", fields.DatetimeField(auto_now=True, auto_now_add=False)),
                (
                    "document",
                    fields.ForeignKeyField(
                        "ragchat.Document",
                        source_field="document_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="chunks",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("dataset_id", fields.CharField(db_index=True, max_length=64)),
                ("position", fields.IntField()),
                ("content", fields.TextField(unique=False)),
                ("positions", fields.JSONField(default=list)),
            ],
            options={
                "table": "ragchat_chunk",
                "app": "ragchat",
                "unique_together": (("document", "position"),),
                "pk_attr": "id",
            },
        ),
        ops.CreateModel(
            name="Run",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, default=new_id, unique=True, db_index=True, max_length=64),
                ),
                ("tenant", fields.CharField(db_index=True, max_length=64)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
                ("updated_at", fields.DatetimeField(auto_now=True, auto_now_add=False)),
                ("kind", fields.CharField(default="chat", max_length=16)),
                ("user", fields.CharField(default="", max_length=255)),
                ("chat_id", fields.CharField(default="", max_length=64)),
                ("session_id", fields.CharField(default="", db_index=True, max_length=64)),
                ("message_id", fields.CharField(default="", max_length=64)),
                ("status", fields.CharField(default="pending", max_length=16)),
                ("finish_reason", fields.CharField(default="", max_length=16)),
                ("last_seq", fields.IntField(default=0)),
                ("usage", fields.JSONField(default=dict)),
                ("error", fields.JSONField(default=dict)),
                ("finished_at", fields.DatetimeField(null=True, auto_now=False, auto_now_add=False)),
            ],
            options={"table": "ragchat_run", "app": "ragchat", "pk_attr": "id"},
        ),
        ops.CreateModel(
            name="Session",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, default=new_id, unique=True, db_index=True, max_length=64),
                ),
                ("tenant", fields.CharField(db_index=True, max_length=64)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
                ("updated_at", fields.DatetimeField(auto_now=True, auto_now_add=False)),
                (
                    "chat",
                    fields.ForeignKeyField(
                        "ragchat.Chat",
                        source_field="chat_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="sessions",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("user", fields.CharField(default="", max_length=255)),
                ("name", fields.CharField(default="", max_length=255)),
            ],
            options={"table": "ragchat_session", "app": "ragchat", "pk_attr": "id"},
        ),
        ops.CreateModel(
            name="Message",
            fields=[
                (
                    "id",
                    fields.CharField(primary_key=True, default=new_id, unique=True, db_index=True, max_length=64),
                ),
                ("tenant", fields.CharField(db_index=True, max_length=64)),
                ("created_at", fields.DatetimeField(auto_now=False, auto_now_add=True)),
                ("updated_at", fields.DatetimeField(auto_now=True, auto_now_add=False)),
                (
                    "session",
                    fields.ForeignKeyField(
                        "ragchat.Session",
                        source_field="session_id",
                        db_constraint=True,
                        to_field="id",
                        related_name="messages",
                        on_delete=OnDelete.CASCADE,
                    ),
                ),
                ("position", fields.IntField()),
                ("run_id", fields.CharField(default="", db_index=True, max_length=64)),
                ("role", fields.CharField(max_length=16)),
                ("content", fields.TextField(unique=False)),
                ("thinking", fields.TextField(default="", unique=False)),
                ("reference", fields.JSONField(default=dict)),
            ],
            options={
                "table": "ragchat_message",
                "app": "ragchat",
                "unique_together": (("session", "position"),),
                "pk_attr": "id",
            },
        ),
    ]
