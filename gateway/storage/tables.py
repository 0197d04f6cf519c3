"""The tables. Ids are text (`org_…`), instants are integer milliseconds since the epoch.

What the hot path reads is small: a key's row and its three parents. `request_event` refers to nobody by foreign key:
the ledger must take an event even when its key's row is gone, and may be pruned without asking the directory.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
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
VERSION = String(64)

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
    # how it is regarded: gateway.core.caller.Regard
    Column("state", String(16), nullable=False, server_default="normal"),
    Column("score", Float, nullable=False, server_default="0"),
    Column("cluster", ID, nullable=False, server_default="", index=True),
    Column("never_contain", Boolean, nullable=False, server_default=false()),
    Column("state_until_ms", MILLISECONDS),
    UniqueConstraint("project_id", "name"),
)

regard_change = Table(  # who changed how a principal is regarded, when and why; never changed itself
    "regard_change",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("principal_id", ID, nullable=False),
    Column("at_ms", MILLISECONDS, nullable=False),
    Column("author", NAME, nullable=False),
    Column("reason", TEXT, nullable=False),
    Column("was", Text, nullable=False),  # a Regard in JSON
    Column("became", Text, nullable=False),
    Index(None, "principal_id", "at_ms"),
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
    Column("cached_tokens", BigInteger, nullable=False, server_default="0"),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("reserved_tokens", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False, server_default="0"),
    Column("kv_cost", BigInteger, nullable=False, server_default="0"),
    Column("choices", BigInteger, nullable=False),
    Column("ttft_ms", BigInteger),
    Column("duration_ms", BigInteger, nullable=False),
    Column("upstream", TEXT),
    Column("region", TEXT),
    Column("attempts", BigInteger, nullable=False),
    Column("end_user", TEXT),
    Column("beyond_prompt_tokens", BigInteger, nullable=False, server_default="0"),
    Column("beyond_cached_tokens", BigInteger, nullable=False, server_default="0"),
    Column("beyond_completion_tokens", BigInteger, nullable=False, server_default="0"),
    Column("beyond_cost", BigInteger, nullable=False, server_default="0"),
    Column("contained", Boolean, nullable=False, server_default=false()),
    Column("shadow", TEXT),
    Column("canary_said", Boolean, nullable=False, server_default=false()),
    Column("matched", LISTED, nullable=False, server_default="[]"),
    Column("logged", LISTED, nullable=False, server_default="[]"),
    Column("flags", LISTED, nullable=False, server_default="[]"),
    Column("record", Text),  # a Record in JSON
    Index(None, "organisation", "at_ms"),
    Index(None, "principal", "at_ms"),
    Index(None, "at_ms"),
)


def usage_table(name: str) -> Table:
    """Sums of request_event over one span of time: what bills and `catflap usage` read. Kept in the transaction of the
    events themselves (storage/usage.py)."""
    return Table(
        name,
        METADATA,
        Column("start_ms", MILLISECONDS, primary_key=True, autoincrement=False),  # of the hour or day, UTC
        Column("organisation", TEXT, primary_key=True),
        Column("project", TEXT, primary_key=True),
        Column("principal", TEXT, primary_key=True),
        Column("key", TEXT, primary_key=True),
        Column("model", TEXT, primary_key=True),
        Column("region", TEXT, primary_key=True),  # "" where the event names none
        Column("outcome", String(16), primary_key=True),
        Column("requests", BigInteger, nullable=False),
        Column("prompt_tokens", BigInteger, nullable=False),
        Column("cached_tokens", BigInteger, nullable=False),
        Column("completion_tokens", BigInteger, nullable=False),
        Column("cost", BigInteger, nullable=False),
        Column("kv_cost", BigInteger, nullable=False),
        # of contained requests: how many, what they were charged, and what they used beyond that (the defence account)
        Column("contained_requests", BigInteger, nullable=False, server_default="0"),
        Column("contained_cost", BigInteger, nullable=False, server_default="0"),
        Column("beyond_prompt_tokens", BigInteger, nullable=False, server_default="0"),
        Column("beyond_completion_tokens", BigInteger, nullable=False, server_default="0"),
        Column("beyond_cost", BigInteger, nullable=False, server_default="0"),
        Index(None, "organisation", "start_ms"),
        Index(None, "principal", "start_ms"),
    )


usage_hour = usage_table("usage_hour")
usage_day = usage_table("usage_day")

spend = Table(  # what budgets are restored from: the cost of a subject's events in a calendar month, UTC
    "spend",
    METADATA,
    Column("subject", TEXT, primary_key=True),  # id of an organisation, project, principal or key
    Column("model", TEXT, primary_key=True),  # "" for all of them together
    Column("month", Integer, primary_key=True, autoincrement=False),  # 202611
    Column("cost", BigInteger, nullable=False),  # thousandths of a cost unit
)

pruning = Table(  # what was thrown away, when: an event older than that may have been counted, and is not counted again
    "pruning",
    METADATA,
    Column("before_ms", MILLISECONDS, primary_key=True, autoincrement=False),
    Column("pruned_at_ms", MILLISECONDS, nullable=False),
)

erased_principal = Table(  # whose events come to rest under nobody's name, however late they come
    "erased_principal",
    METADATA,
    Column("digest", LargeBinary(32), primary_key=True),  # SHA-256 of the principal's id
    Column("erased_at_ms", MILLISECONDS, nullable=False),
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

policy_ruleset = Table(  # every ruleset that was ever in force, so that old decisions can be explained
    "policy_ruleset",
    METADATA,
    Column("version", VERSION, primary_key=True),
    Column("files", Text, nullable=False),  # a JSON object: name of the file -> its text
    Column("seen_at_ms", MILLISECONDS, nullable=False),
)

policy_revision = Table(  # what is in force: the last one; all of them: the history
    "policy_revision",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("version", VERSION),  # of policy_ruleset; null: whatever the directory of policies holds
    Column("containment", Boolean, nullable=False),  # false: the one switch is off
    Column("kind", String(16), nullable=False),  # apply, rollback, off, on
    Column("author", NAME, nullable=False),
    Column("message", TEXT, nullable=False),
    Column("source", TEXT),  # the directory or git revision that was applied
    Column("restores", Integer),  # number of the revision that a rollback goes back to
    Column("at_ms", MILLISECONDS, nullable=False),
)

canary = Table(  # the phrase that a principal was given, however keys change later
    "canary",
    METADATA,
    Column("principal", ID, primary_key=True),
    Column("words", LISTED, primary_key=True),
    Column("first_at_ms", MILLISECONDS, nullable=False),
    Column("last_at_ms", MILLISECONDS, nullable=False),
)

evidence = Table(  # what contained principals asked and got, encrypted
    "evidence",
    METADATA,
    Column("request", TEXT, primary_key=True),
    Column("organisation", ID, nullable=False),
    Column("principal", ID, nullable=False),
    Column("at_ms", MILLISECONDS, nullable=False),
    Column("expires_at_ms", MILLISECONDS, nullable=False, index=True),
    Column("body", LargeBinary, nullable=False),
    Index(None, "principal", "at_ms"),
)

evidence_reading = Table(  # who has read which evidence, when and why; outlives it
    "evidence_reading",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("request", TEXT, nullable=False),
    Column("principal", ID, nullable=False),
    Column("reader", NAME, nullable=False),
    Column("reason", TEXT, nullable=False),
    Column("at_ms", MILLISECONDS, nullable=False),
)
