"""Names of the Redis keys. All keys of one partition share the hash tag `{pN}`, so each script is one cluster slot."""


def clock_key(partition: int) -> str:
    """Hash: the partition's clock, which never goes back (admit.lua)."""
    return f"cf:{{p{partition}}}:clock"


def held_key(partition: int) -> str:
    """Hash: request id -> its reservation, as long as it is neither settled nor reclaimed."""
    return f"cf:{{p{partition}}}:held"


def lease_key(partition: int) -> str:
    """Sorted set: request id -> the millisecond of the partition's clock at which its lease ends."""
    return f"cf:{{p{partition}}}:lease"


def events_key(partition: int) -> str:
    """Stream: one entry a finished request, field `e` holding a RequestEvent as JSON."""
    return f"cf:{{p{partition}}}:events"


def epoch_key(partition: int, organisation: str) -> str:
    """String: the epoch of an organisation's directory entries; absent, the partition's birth (epoch.lua)."""
    return f"cf:{{p{partition}}}:epoch:{organisation}"


def confirmed_key(partition: int) -> str:
    """String: the id of the last stream entry that the ledger has committed; the ledger writes it."""
    return f"cf:{{p{partition}}}:confirmed"


def limit_key(partition: int, subject: str, limit: str) -> str:
    """Hash: one sliding window, of the limit named `limit` for the subject (a key's id, say)."""
    return f"cf:{{p{partition}}}:limit:{subject}:{limit}"


def slots_key(partition: int, subject: str, limit: str) -> str:
    """Sorted set: the subject's running requests -> ends of their leases."""
    return f"cf:{{p{partition}}}:slots:{subject}:{limit}"


def budget_key(partition: int, subject: str, limit: str) -> str:
    """Hash: `month` (yyyymm) and `used`, thousandths of a cost unit."""
    return f"cf:{{p{partition}}}:budget:{subject}:{limit}"
