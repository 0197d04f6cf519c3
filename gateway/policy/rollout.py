"""Who is in a rollout: sticky by a keyed hash, drawn anew for each policy."""

from functools import lru_cache
from hashlib import blake2b

from gateway.core.facts import Facts

REMEMBERED = 4096


def subject_roll(key: bytes, facts: Facts) -> int:
    """The chance of a principal, the same for all accounts of a cluster; below 2**64. `key`: a secret of at most 64
    bytes, without which nobody can tell who will be chosen."""
    principal = facts.principal
    return _drawn(key, f"cluster:{principal.cluster}" if principal.cluster else f"principal:{principal.id}")


@lru_cache(REMEMBERED)
def _drawn(key: bytes, subject: str) -> int:
    return int.from_bytes(blake2b(subject.encode(), digest_size=8, key=key, person=b"catflap-rollout").digest())


def chosen(subject: int, policy: str, percent: float) -> bool:
    """Whether the subject is in this policy's rollout. One that is in stays in when the share grows; each policy draws
    anew, so that the same few are not the first to get everything."""
    if percent >= 100:
        return True
    drawn = blake2b(policy.encode(), digest_size=8, key=subject.to_bytes(8)).digest()
    return int.from_bytes(drawn) < percent / 100 * 2**64
