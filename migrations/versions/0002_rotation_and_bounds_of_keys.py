"""Keys can be rotated and bound to endpoints, models and addresses; principals can have limits of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COLUMNS = (
    ("pepper", sa.String(length=16)),
    ("old_digest", sa.LargeBinary(length=32)),
    ("old_pepper", sa.String(length=16)),
    ("old_until_ms", sa.BigInteger()),
    ("rotated_at_ms", sa.BigInteger()),
    ("scopes", sa.Text()),
    ("models", sa.Text()),
    ("addresses", sa.Text()),
    ("tags", sa.Text()),
)


def upgrade() -> None:
    for name, kind in COLUMNS:  # nullable and without defaults: neither database rewrites the table for it
        op.add_column("key", sa.Column(name, kind, nullable=True))
    op.create_table(
        "principal_limit",
        sa.Column("principal_id", sa.String(length=64), nullable=False),
        sa.Column("measure", sa.String(length=16), nullable=False),
        sa.Column("per", sa.String(length=16), nullable=False),
        sa.Column("model", sa.String(length=256), nullable=False),
        sa.Column("limit", sa.BigInteger(), nullable=False),
        sa.Column("changed_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["principal_id"], ["principal.id"], name=op.f("fk_principal_limit_principal_id")),
        sa.PrimaryKeyConstraint("principal_id", "measure", "per", "model", name=op.f("pk_principal_limit")),
    )


def downgrade() -> None:
    """Bounds and limits are lost with their columns: a key that was held to some endpoints is then held to none, and a
    secret that a rotation left alive ends. Keys that moved to another pepper need that one as CATFLAP_PEPPER."""
    op.drop_table("principal_limit")
    # A key that was bounded would come back unbounded: it is safer that it does not come back.
    op.execute(
        "update key set revoked_at_ms = created_at_ms where revoked_at_ms is null"
        " and (scopes is not null or models is not null or addresses is not null)"
    )
    with op.batch_alter_table("key") as table:
        for name, _ in reversed(COLUMNS):
            table.drop_column(name)
