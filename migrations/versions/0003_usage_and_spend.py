"""What requests cost, roll-ups, what budgets are restored from, pruning and erasure."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

DIMENSIONS = ("organisation", "project", "principal", "key", "model", "region", "outcome")
AMOUNTS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens", "cost", "kv_cost")
INDEXED = ("organisation", "principal")
SPANS_MS = {"usage_hour": 3_600_000, "usage_day": 86_400_000}


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("set local statement_timeout = 0")  # many old events take a while to add up
    for name in ("cached_tokens", "cost", "kv_cost"):
        op.add_column("request_event", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("request_event", sa.Column("region", sa.String(length=256), nullable=True))
    op.create_index(op.f("ix_request_event_at_ms"), "request_event", ["at_ms"])
    op.create_index(op.f("ix_request_event_principal_at_ms"), "request_event", ["principal", "at_ms"])
    op.drop_index(op.f("ix_request_event_key_at_ms"), table_name="request_event")  # nobody asked by key
    for table, span_ms in SPANS_MS.items():
        create_usage_table(table)
        fill_usage_table(table, span_ms)
    op.create_table(
        "spend",
        sa.Column("subject", sa.String(length=256), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("month", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("cost", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("subject", "model", "month", name=op.f("pk_spend")),
    )
    op.create_table(
        "pruning",
        sa.Column("before_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("pruned_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("before_ms", name=op.f("pk_pruning")),
    )
    op.create_table(
        "erased_principal",
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("erased_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_erased_principal")),
    )


def create_usage_table(table: str) -> None:
    op.create_table(
        table,
        sa.Column("start_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        *(sa.Column(name, sa.String(length=16 if name == "outcome" else 256), nullable=False) for name in DIMENSIONS),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in AMOUNTS),
        sa.PrimaryKeyConstraint("start_ms", *DIMENSIONS, name=op.f(f"pk_{table}")),
    )
    for name in INDEXED:
        op.create_index(op.f(f"ix_{table}_{name}_start_ms"), table, [name, "start_ms"])


def fill_usage_table(table: str, span_ms: int) -> None:
    """From the events that are there. They cost nothing yet, so there is no spend."""
    event = sa.table("request_event", *(sa.column(name) for name in ("at_ms", *DIMENSIONS, *AMOUNTS[1:])))
    start = event.c.at_ms - event.c.at_ms % span_ms
    values = {
        "start_ms": start,
        **{name: event.c[name] for name in DIMENSIONS},
        "region": sa.func.coalesce(event.c.region, ""),
        "requests": sa.func.count(),
        **{name: sa.cast(sa.func.sum(event.c[name]), sa.BigInteger()) for name in AMOUNTS[1:]},
    }
    groups = [start, *(values[name] for name in DIMENSIONS)]
    rows = sa.select(*(value.label(name) for name, value in values.items())).group_by(*groups)
    target = sa.table(table, *(sa.column(name) for name in values))
    op.execute(sa.insert(target).from_select(list(values), rows))


def downgrade() -> None:
    op.drop_table("erased_principal")
    op.drop_table("pruning")
    op.drop_table("spend")
    for table in SPANS_MS:
        for name in INDEXED:
            op.drop_index(op.f(f"ix_{table}_{name}_start_ms"), table_name=table)
        op.drop_table(table)
    op.create_index(op.f("ix_request_event_key_at_ms"), "request_event", ["key", "at_ms"])
    op.drop_index(op.f("ix_request_event_principal_at_ms"), table_name="request_event")
    op.drop_index(op.f("ix_request_event_at_ms"), table_name="request_event")
    with op.batch_alter_table("request_event") as batch:
        for name in ("region", "kv_cost", "cost", "cached_tokens"):
            batch.drop_column(name)
