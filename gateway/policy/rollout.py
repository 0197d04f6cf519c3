"""Who is in a rollout: sticky by a keyed hash, drawn anew for each policy."""

from hashlib import blake2b

from gateway.core.facts import Facts


def subject_roll(key: bytes, facts: Facts) -> int:
    """The chance of a principal, the same for all accounts of a cluster; below 2**64. `key`: a secret of at most 64
    bytes, without which nobody can tell who will be chosen."""
    principal = facts.principal
    subject = f"cluster:{principal.cluster}" if principal.cluster else f"principal:{principal.id}"
    return int.from_bytes(blake2b(subject.encode(), digest_size=8, key=key, person=b"catflap-rollout").digest())


def chosen(subject: int, policy: str, percent: float) -> bool:
    """Whether the subject is in this policy's rollout. One that is in stays in when the share grows; each policy draws
    anew, so that the same few are not the first to get everything."""
    if percent >= 100:
        return True
    drawn = blake2b(policy.encode(), digest_size=8, key=subject.to_bytes(8)).digest()
    return int.from_bytes(drawn) < percent / 100 * 2**64
