"""The tables. Ids are text (`org_…`), instants are integer milliseconds since the epoch.

What the hot path reads is small: a key's row and its three parents. `request_event` refers to nobody by foreign key:
the ledger must take an event even when its key's row is gone, and may be pruned without asking the directory.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

NAMING = {  # so that Alembic can name, and on SQLite rebuild, every constraint
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
METADATA = MetaData(naming_convention=NAMING)
ID = String(64)
NAME = String(128)
TEXT = String(256)
MILLISECONDS = BigInteger
FINGERPRINT = String(16)
LISTED = Text

organisation = Table(
    "organisation",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("name", NAME, nullable=False, unique=True),
    Column("created_at_ms", MILLISECONDS, nullable=False),
)

project = Table(
    "project",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("organisation_id", ID, ForeignKey("organisation.id"), nullable=False),
    Column("name", NAME, nullable=False),
    Column("created_at_ms", MILLISECONDS, nullable=False),
    UniqueConstraint("organisation_id", "name"),
)

principal = Table(
    "principal",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("project_id", ID, ForeignKey("project.id"), nullable=False),
    Column("kind", String(16), CheckConstraint("kind in ('person', 'service')", name="kind"), nullable=False),
    Column("name", NAME, nullable=False),
    Column("created_at_ms", MILLISECONDS, nullable=False),
    UniqueConstraint("project_id", "name"),
)

key = Table(
    "key",
    METADATA,
    Column("id", ID, primary_key=True),
    Column("principal_id", ID, ForeignKey("principal.id"), nullable=False, index=True),
    Column("digest", LargeBinary(32), nullable=False),  # HMAC-SHA-256 of the token under the pepper; never the token
    Column("pepper", FINGERPRINT),  # which pepper that was; null: from before peppers were told apart
    Column("old_digest", LargeBinary(32)),  # the secret before the last rotation, good until old_until_ms
    Column("old_pepper", FINGERPRINT),
    Column("old_until_ms", MILLISECONDS),
    Column("plan", NAME, nullable=False),
    Column("name", NAME),
    Column("created_at_ms", MILLISECONDS, nullable=False),
    Column("expires_at_ms", MILLISECONDS),
    Column("revoked_at_ms", MILLISECONDS),
    Column("rotated_at_ms", MILLISECONDS),
    Column("scopes", LISTED),  # JSON arrays of text; null: no bound of that kind
    Column("models", LISTED),
    Column("addresses", LISTED),
    Column("tags", LISTED),
)

principal_limit = Table(  # limits of a principal's own; '' stands for "at a time" and for "all models"
    "principal_limit",
    METADATA,
    Column("principal_id", ID, ForeignKey("principal.id"), primary_key=True),
    Column("measure", String(16), primary_key=True),
    Column("per", String(16), primary_key=True),
    Column("model", TEXT, primary_key=True),
    Column("limit", BigInteger, nullable=False),
    Column("changed_at_ms", MILLISECONDS, nullable=False),
)

request_event = Table(  # columns are the fields of gateway.core.event.RequestEvent, by name
    "request_event",
    METADATA,
    Column("request", TEXT, primary_key=True),
    Column("v", Integer, nullable=False),
    Column("organisation", TEXT, nullable=False),
    Column("project", TEXT, nullable=False),
    Column("principal", TEXT, nullable=False),
    Column("key", TEXT, nullable=False),
    Column("plan", TEXT, nullable=False),
    Column("endpoint", TEXT, nullable=False),
    Column("model", TEXT, nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("at_ms", MILLISECONDS, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("status", BigInteger, nullable=False),
    Column("finish_reason", TEXT),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("reserved_tokens", BigInteger, nullable=False),
    Column("choices", BigInteger, nullable=False),
    Column("ttft_ms", BigInteger),
    Column("duration_ms", BigInteger, nullable=False),
    Column("upstream", TEXT),
    Column("attempts", BigInteger, nullable=False),
    Column("end_user", TEXT),
    Index(None, "organisation", "at_ms"),
    Index(None, "key", "at_ms"),
)

ledger_cursor = Table(  # the id of the last stream entry whose event is in request_event: `ms-seq`, in two numbers
    "ledger_cursor",
    METADATA,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("last_ms", MILLISECONDS, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
)

ledger_reject = Table(  # entries that are no RequestEvent: kept, because somebody may be owed for them
    "ledger_reject",
    METADATA,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("entry", String(48), primary_key=True),
    Column("reason", String(200), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("rejected_at_ms", MILLISECONDS, nullable=False),
)
