"""simulate: recorded traffic under another ruleset. Whom each rule would touch, what would change against what was
decided, and how much cannot be decided because words are not kept."""

from collections import Counter
from collections.abc import Iterable, Iterator
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


MOST_MASKS = 4096


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
    which the new ruleset cannot tell, `unrecorded` among them: those without a record. `not_compared`: there is no
    ruleset of today, or it cannot tell."""

    ruleset: str
    rules: list[RuleTally]
    requests: int = 0
    as_usual: int = 0
    same: int = 0
    changed: int = 0
    undecided: int = 0
    unrecorded: int = 0
    not_compared: int = 0
    changes: list[Change] = msgspec.field(default_factory=list)

    @property
    def undecided_percent(self) -> float:
        """Of all requests."""
        return 100 * self.undecided / self.requests if self.requests else 0.0


def simulate(records: Iterable[Record], ruleset: Ruleset, today: Ruleset | None = None) -> Simulation:
    """Replay `records` under `ruleset`; compare with `today`, where it is given."""
    simulator = Simulator(ruleset, today)
    simulator.take(records)
    return simulator.told()


class Simulator:
    """A simulation that takes its records part by part, in bounded memory."""

    def __init__(self, ruleset: Ruleset, today: Ruleset | None = None) -> None:
        self._ruleset = ruleset
        self._today = today
        rules = [RuleTally(rule.id, rule.file.spec.mode) for rule in ruleset.rules]
        self._told = Simulation(ruleset.version, rules)
        # by mask, because with a hundred open rules each record would else cost a hundred steps
        self._unknown: Counter[int] = Counter()

    def take(self, records: Iterable[Record]) -> None:
        """Replay these."""
        told, ruleset, today = self._told, self._ruleset, self._today
        for record in records:
            told.requests += 1
            found = replay(record, ruleset)
            if found.unknown:
                self._open(found.unknown)
            if found.yes or found.failed:
                _tally(told, record, found)
            if found.decision is None:
                told.undecided += 1
                continue
            told.as_usual += found.decision.actions == _NOTHING
            if today is None:
                told.not_compared += 1
            else:
                _compare(told, record, found.decision.actions, today)

    def pass_over(self, requests: int = 1) -> None:
        """So many requests have no record: whatever a ruleset says of them cannot be told."""
        self._told.requests += requests
        self._told.undecided += requests
        self._told.unrecorded += requests

    def told(self) -> Simulation:
        """What came of all that was taken."""
        self._count_open()
        return self._told

    def _open(self, rules: int) -> None:
        if len(self._unknown) >= MOST_MASKS:
            self._count_open()
        self._unknown[rules] += 1

    def _count_open(self) -> None:
        for rules, requests in self._unknown.items():
            for rule in _at(self._told.rules, rules):
                rule.unknown += requests
        self._unknown.clear()


_NOTHING = Actions()


def _at(rules: list[RuleTally], bits: int) -> Iterator[RuleTally]:
    while bits:
        bit = bits & -bits
        bits ^= bit
        yield rules[bit.bit_length() - 1]


def _tally(told: Simulation, record: Record, found: Replayed) -> None:
    for rule in _at(told.rules, found.failed):
        rule.failed += 1
    for rule in _at(told.rules, found.yes):
        rule.yes += 1
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
