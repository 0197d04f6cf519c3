"""Policies: how principals are regarded, rulesets and their revisions, canaries, evidence, the defence account."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.String(length=64)
NAME = sa.String(length=128)
TEXT = sa.String(length=256)
VERSION = sa.String(length=64)
BEYOND = ("beyond_prompt_tokens", "beyond_cached_tokens", "beyond_completion_tokens", "beyond_cost")
SUMS = ("contained_requests", "contained_cost", "beyond_prompt_tokens", "beyond_completion_tokens", "beyond_cost")


def upgrade() -> None:
    regard()
    events()
    rulesets()
    evidence()


def regard() -> None:
    for column in (
        sa.Column("state", sa.String(length=16), server_default="normal", nullable=False),
        sa.Column("score", sa.Float(), server_default="0", nullable=False),
        sa.Column("cluster", ID, server_default="", nullable=False),
        sa.Column("never_contain", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("state_until_ms", sa.BigInteger(), nullable=True),
    ):
        op.add_column("principal", column)
    op.create_index(op.f("ix_principal_cluster"), "principal", ["cluster"])
    op.create_table(
        "regard_change",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("principal_id", ID, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("author", NAME, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("was", sa.Text(), nullable=False),
        sa.Column("became", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_regard_change")),
    )
    op.create_index(op.f("ix_regard_change_principal_id_at_ms"), "regard_change", ["principal_id", "at_ms"])


def events() -> None:
    for name in BEYOND:
        op.add_column("request_event", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))
    for name in ("contained", "canary_said"):
        op.add_column("request_event", sa.Column(name, sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("request_event", sa.Column("shadow", TEXT, nullable=True))
    for name in ("matched", "logged", "flags"):
        op.add_column("request_event", sa.Column(name, sa.Text(), server_default="[]", nullable=False))
    op.add_column("request_event", sa.Column("record", sa.Text(), nullable=True))
    for table in ("usage_hour", "usage_day"):
        for name in SUMS:
            op.add_column(table, sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))


def rulesets() -> None:
    op.create_table(
        "policy_ruleset",
        sa.Column("version", VERSION, nullable=False),
        sa.Column("files", sa.Text(), nullable=False),
        sa.Column("seen_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_policy_ruleset")),
    )
    op.create_table(
        "policy_revision",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("version", VERSION, nullable=True),
        sa.Column("containment", sa.Boolean(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("author", NAME, nullable=False),
        sa.Column("message", TEXT, nullable=False),
        sa.Column("source", TEXT, nullable=True),
        sa.Column("restores", sa.Integer(), nullable=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_policy_revision")),
    )


def evidence() -> None:
    op.create_table(
        "canary",
        sa.Column("principal", ID, nullable=False),
        sa.Column("words", sa.Text(), nullable=False),
        sa.Column("first_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("principal", "words", name=op.f("pk_canary")),
    )
    op.create_table(
        "evidence",
        sa.Column("request", TEXT, nullable=False),
        sa.Column("organisation", ID, nullable=False),
        sa.Column("principal", ID, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("request", name=op.f("pk_evidence")),
    )
    op.create_index(op.f("ix_evidence_expires_at_ms"), "evidence", ["expires_at_ms"])
    op.create_index(op.f("ix_evidence_principal_at_ms"), "evidence", ["principal", "at_ms"])
    op.create_table(
        "evidence_reading",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("request", TEXT, nullable=False),
        sa.Column("principal", ID, nullable=False),
        sa.Column("reader", NAME, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_evidence_reading")),
    )


def downgrade() -> None:
    for table in ("evidence_reading", "evidence", "canary", "policy_revision", "policy_ruleset", "regard_change"):
        op.drop_table(table)
    for table in ("usage_hour", "usage_day"):
        for name in SUMS:
            op.drop_column(table, name)
    for name in (*BEYOND, "contained", "canary_said", "shadow", "matched", "logged", "flags", "record"):
        op.drop_column("request_event", name)
    op.drop_index(op.f("ix_principal_cluster"), table_name="principal")
    for name in ("state", "score", "cluster", "never_contain", "state_until_ms"):
        op.drop_column("principal", name)
