"""diff: what changes in meaning from one ruleset to another: which rules, and who over recorded requests is touched by
one and not by the other."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from gateway.core.record import Record
from gateway.policy.loader import Policy
from gateway.policy.replay import replay
from gateway.policy.ruleset import Ruleset

SPEC_PARTS = ("mode", "covert", "priority", "match", "rollout", "schedule", "actions")


class Altered(NamedTuple):
    """A rule that is in both: the parts that differ, each with what it was and what it is."""

    id: str
    parts: tuple[tuple[str, str, str], ...]


class Touched(msgspec.Struct):
    """Over the records, for one rule of either ruleset: principals that come under it, and that leave it. `unknown`:
    requests of which one of the two cannot tell."""

    id: str
    gained: set[str] = msgspec.field(default_factory=set)
    lost: set[str] = msgspec.field(default_factory=set)
    unknown: int = 0


class Diff(NamedTuple):
    """`touched` holds only rules for which something differs."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    altered: tuple[Altered, ...]
    touched: tuple[Touched, ...]
    requests: int


def diff(old: Ruleset, new: Ruleset, records: Iterable[Record] = ()) -> Diff:
    """The texts of conditions are compared by what they say: spacing and comments make no difference."""
    before, after = _by_id(old), _by_id(new)
    altered = [_altered(before[name], after[name]) for name in sorted(before.keys() & after.keys())]
    touched: dict[str, Touched] = {}
    requests = 0
    for record in records:
        requests += 1
        _compare(record, old, new, touched)
    return Diff(
        tuple(sorted(after.keys() - before.keys())),
        tuple(sorted(before.keys() - after.keys())),
        tuple(each for each in altered if each.parts),
        tuple(touched[name] for name in sorted(touched)),
        requests,
    )


def _compare(record: Record, old: Ruleset, new: Ruleset, touched: dict[str, Touched]) -> None:
    was, unknown_then = _holding(record, old)
    now, unknown_now = _holding(record, new)
    unknown = unknown_then | unknown_now
    for name in (was ^ now) | unknown:
        entry = touched.setdefault(name, Touched(name))
        if name in unknown:
            entry.unknown += 1
        else:
            (entry.gained if name in now else entry.lost).add(record.facts.principal.id)


def _holding(record: Record, ruleset: Ruleset) -> tuple[set[str], set[str]]:
    """Ids of the rules whose condition holds, and of those of which nobody can tell."""
    found = replay(record, ruleset)
    if not (found.yes or found.unknown):
        return set(), set()
    rules = list(enumerate(ruleset.rules))
    yes = {rule.id for at, rule in rules if found.yes >> at & 1}
    return yes, {rule.id for at, rule in rules if found.unknown >> at & 1}


def _altered(old: Policy, new: Policy) -> Altered:
    parts = []
    for name in SPEC_PARTS:
        was, now = getattr(old.file.spec, name), getattr(new.file.spec, name)
        same = old.condition.formula == new.condition.formula if name == "match" else was == now
        if not same:
            parts.append((name, _said(was), _said(now)))
    return Altered(new.id, tuple(parts))


def _said(part: object) -> str:
    return part if isinstance(part, str) else msgspec.json.encode(part).decode()


def _by_id(ruleset: Ruleset) -> dict[str, Policy]:
    return {policy.id: policy for policy in ruleset.policies}
