"""simulate: recorded traffic under another ruleset. Whom each rule would touch, what would change against what was
decided, and how much cannot be decided because words are not kept."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from gateway.core.decision import Actions
from gateway.core.record import Record
from gateway.policy.replay import Replayed, replay
from gateway.policy.ruleset import Ruleset

SAMPLES = 5
"""Requests that are named for each rule."""
MOST_PRINCIPALS = 100_000
"""That are remembered for each rule; with so many, the count is a lower bound."""


class RuleTally(msgspec.Struct):
    """One rule: requests for which it holds, may hold, fails; who they are from; some of them."""

    id: str
    mode: str
    yes: int = 0
    unknown: int = 0
    failed: int = 0
    principals: set[str] = msgspec.field(default_factory=set)
    samples: list[str] = msgspec.field(default_factory=list)


class Change(NamedTuple):
    """A request that would be served otherwise."""

    request: str
    principal: str
    was: Actions
    would_be: Actions


class Simulation(msgspec.Struct):
    """`same`, `changed`: requests whose actions would be those of today's ruleset, or others. `undecided`: those of
    which the new ruleset cannot tell. `not_compared`: there is no ruleset of today, or it cannot tell."""

    ruleset: str
    rules: list[RuleTally]
    requests: int = 0
    as_usual: int = 0
    same: int = 0
    changed: int = 0
    undecided: int = 0
    not_compared: int = 0
    changes: list[Change] = msgspec.field(default_factory=list)


def simulate(records: Iterable[Record], ruleset: Ruleset, today: Ruleset | None = None) -> Simulation:
    """Replay `records` under `ruleset`; compare with `today`, where it is given."""
    told = Simulation(ruleset.version, [RuleTally(rule.id, rule.file.spec.mode) for rule in ruleset.rules])
    for record in records:
        told.requests += 1
        found = replay(record, ruleset)
        if found.yes or found.unknown or found.failed:
            _tally(told, record, found)
        if found.decision is None:
            told.undecided += 1
        elif today is None:
            told.not_compared += 1
            told.as_usual += found.decision.actions == _NOTHING
        else:
            told.as_usual += found.decision.actions == _NOTHING
            _compare(told, record, found.decision.actions, today)
    return told


_NOTHING = Actions()


def _tally(told: Simulation, record: Record, found: Replayed) -> None:
    touched = found.yes | found.unknown | found.failed
    while touched:
        bit = touched & -touched
        touched ^= bit
        rule = told.rules[bit.bit_length() - 1]
        if found.failed & bit:
            rule.failed += 1
            continue
        rule.yes += bool(found.yes & bit)
        rule.unknown += bool(found.unknown & bit)
        if found.yes & bit:
            if len(rule.principals) < MOST_PRINCIPALS:
                rule.principals.add(record.facts.principal.id)
            if len(rule.samples) < SAMPLES:
                rule.samples.append(record.request)


def _compare(told: Simulation, record: Record, would_be: Actions, today: Ruleset) -> None:
    was = replay(record, today).decision
    if was is None:
        told.not_compared += 1
    elif was.actions == would_be:
        told.same += 1
    else:
        told.changed += 1
        if len(told.changes) < SAMPLES:
            told.changes.append(Change(record.request, record.facts.principal.id, was.actions, would_be))
