"""The first schema."""

from tortoise import fields, migrations
from tortoise.fields.base import OnDelete
from tortoise.migrations import operations as ops
from tortoise.migrations.schema_editor.base import BaseSchemaEditor
from tortoise.migrations.schema_generator.state_apps import StateApps

from ragchat.store.models import new_id

_INDEX = {
    "sqlite": [
        """
        CREATE TABLE ragchat_term (
            dataset_id VARCHAR(64) NOT NULL REFERENCES ragchat_dataset (id) ON DELETE CASCADE,
            term TEXT NOT NULL,
            chunks INT NOT NULL,
            PRIMARY KEY (dataset_id, term)
        ) WITHOUT ROWID
        """,
        # Which chunk holds which word is all that is asked; every byte of a word that is not ASCII belongs to it.
        """
        CREATE VIRTUAL TABLE ragchat_index USING fts5 (
            chunk_id UNINDEXED, scope, terms, detail = none, columnsize = 0, tokenize = "ascii tokenchars ':'"
        )
        """,
    ],
    "postgres": [
        """
        CREATE TABLE ragchat_term (
            dataset_id VARCHAR(64) NOT NULL REFERENCES ragchat_dataset (id) ON DELETE CASCADE,
            term TEXT COLLATE "C" NOT NULL,
            chunks INT NOT NULL,
            PRIMARY KEY (dataset_id, term)
        )
        """,
        # Thousands of rows are counted for a question and few are read: the words are kept out of the way.
        """
        CREATE TABLE ragchat_index (
            number BIGSERIAL PRIMARY KEY,
            chunk_id VARCHAR(64) NOT NULL REFERENCES ragchat_chunk (id) ON DELETE CASCADE,
            scope TEXT NOT NULL,
            terms TEXT NOT NULL
        ) WITH (toast_tuple_target = 128)
        """,
        "CREATE INDEX ragchat_index_chunk ON ragchat_index (chunk_id)",
        # Without fastupdate a question never has to search what was not sorted in yet.
        """
        CREATE INDEX ragchat_index_words ON ragchat_index
        USING gin (array_to_tsvector(string_to_array(scope || ' ' || terms, ' '))) WITH (fastupdate = off)
        """,
    ],
}


async def create_index(_: StateApps, editor: BaseSchemaEditor) -> None:
    """What `ragchat.rag.index` searches in; the two databases have different words for it."""
    for statement in _INDEX[editor.client.capabilities.dialect]:
        await editor.client.execute_script(statement)


async def drop_index(_: StateApps, editor: BaseSchemaEditor) -> None:
    """Undo `create_index`."""
    for table in ("ragchat_index", "ragchat_term"):
        await editor.client.execute_script(f"DROP TABLE {table}")


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
                ("chunk_count", fields.IntField(default=0)),
                ("token_count", fields.BigIntField(default=0)),
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
        ops.RunPython(create_index, drop_index),
    ]
