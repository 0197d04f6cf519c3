"""The first tables: who may ask, and what was asked."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "ledger_cursor",
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("last_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("partition", name=op.f("pk_ledger_cursor")),
    )
    op.create_table(
        "ledger_reject",
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("entry", sa.String(length=48), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("rejected_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "entry", name=op.f("pk_ledger_reject")),
    )
    op.create_table(
        "organisation",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organisation")),
        sa.UniqueConstraint("name", name=op.f("uq_organisation_name")),
    )
    op.create_table(
        "request_event",
        sa.Column("request", sa.String(length=256), nullable=False),
        sa.Column("v", sa.Integer(), nullable=False),
        sa.Column("organisation", sa.String(length=256), nullable=False),
        sa.Column("project", sa.String(length=256), nullable=False),
        sa.Column("principal", sa.String(length=256), nullable=False),
        sa.Column("key", sa.String(length=256), nullable=False),
        sa.Column("plan", sa.String(length=256), nullable=False),
        sa.Column("endpoint", sa.String(length=256), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("stream", sa.Boolean(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("status", sa.BigInteger(), nullable=False),
        sa.Column("finish_reason", sa.String(length=256), nullable=True),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reserved_tokens", sa.BigInteger(), nullable=False),
        sa.Column("choices", sa.BigInteger(), nullable=False),
        sa.Column("ttft_ms", sa.BigInteger(), nullable=True),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False),
        sa.Column("upstream", sa.String(length=256), nullable=True),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("end_user", sa.String(length=256), nullable=True),
        sa.PrimaryKeyConstraint("request", name=op.f("pk_request_event")),
    )
    op.create_index(op.f("ix_request_event_key_at_ms"), "request_event", ["key", "at_ms"])
    op.create_index(op.f("ix_request_event_organisation_at_ms"), "request_event", ["organisation", "at_ms"])
    op.create_table(
        "project",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("organisation_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["organisation_id"], ["organisation.id"], name=op.f("fk_project_organisation_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_project")),
        sa.UniqueConstraint("organisation_id", "name", name=op.f("uq_project_organisation_id_name")),
    )
    op.create_table(
        "principal",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind in ('person', 'service')", name=op.f("ck_principal_kind")),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], name=op.f("fk_principal_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_principal")),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_principal_project_id_name")),
    )
    op.create_table(
        "key",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("principal_id", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("plan", sa.String(length=128), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["principal_id"], ["principal.id"], name=op.f("fk_key_principal_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_key")),
    )
    op.create_index(op.f("ix_key_principal_id"), "key", ["principal_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_key_principal_id"), table_name="key")
    op.drop_table("key")
    op.drop_table("principal")
    op.drop_table("project")
    op.drop_index(op.f("ix_request_event_organisation_at_ms"), table_name="request_event")
    op.drop_index(op.f("ix_request_event_key_at_ms"), table_name="request_event")
    op.drop_table("request_event")
    op.drop_table("organisation")
    op.drop_table("ledger_reject")
    op.drop_table("ledger_cursor")
