"""A partition of the quota state as a model in plain Python: what the Lua scripts do, in any order, said once more.

It is the oracle of the scripts' tests. Every method takes the wall clock in milliseconds since the epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.limits.budget import Budget, month_of
from gateway.limits.slots import SLOT_WAIT_MS, Slots
from gateway.limits.window import Clock, Window

Rule = Window | Slots | Budget
CLOCK_WRITTEN_EVERY_MS = 250


class Verdict(NamedTuple):
    """`wait_ms` and `refused_by` (1, 2 ... in the order asked) are 0 where it was admitted; `refused_by` is negative
    for a budget that is not known, `wait_ms` then its month. `states`: for each limit, units left and milliseconds
    until it is whole again."""

    wait_ms: int
    refused_by: int
    states: tuple[tuple[int, int], ...]


@dataclass
class Held:
    """A reservation: limit -> (bucket or month, cost), the end of its lease, and the tokens last reported."""

    taken: dict[str, tuple[int, int]]
    lease_ends: int
    reported: tuple[int, int] = (0, 0)


@dataclass
class Partition:
    """The limits by name, the clock, and what is held."""

    limits: Mapping[str, Rule]
    lease_ms: int
    gives_back: frozenset[str] = frozenset()
    """The windows of which settlements give back: those of tokens."""
    clock: Clock = field(default_factory=lambda: Clock(written_every_ms=CLOCK_WRITTEN_EVERY_MS))
    held: dict[str, Held] = field(default_factory=dict)

    def admit(self, request: str, costs: Mapping[str, int], wall: int) -> Verdict:
        """Take all the limits named, or none."""
        now = self.clock.now(wall)
        wait, refused_by = 0, 0
        for number, (name, cost) in enumerate(costs.items(), 1):
            rule = self.limits[name]
            self._slide(rule, now, wall)
            if isinstance(rule, Budget) and rule.used is None:
                if refused_by >= 0:
                    wait, refused_by = month_of(wall)[0], -number
            elif self._used(rule) + cost > rule.cap and refused_by >= 0:
                its_wait = self._wait(name, cost, now, wall)
                if its_wait > wait:
                    wait, refused_by = its_wait, number
        if refused_by == 0:
            taken = {name: (self._take(self.limits[name], request, cost, now), cost) for name, cost in costs.items()}
            self.held[request] = Held(taken, now + self.lease_ms)
        states = tuple(self._state(self.limits[name], now, wall) for name in costs)
        return Verdict(wait, refused_by, states)

    def settle(self, request: str, used: Mapping[str, int], wall: int) -> None:
        """Correct each limit in the bucket of the reservation, and end it."""
        self.clock.now(wall)
        for name, (bucket, cost) in self.held.pop(request).taken.items():
            rule = self.limits[name]
            if isinstance(rule, Slots):
                rule.free(request)
            else:
                rule.correct(bucket, used[name] - cost)
            if isinstance(rule, Window):
                rule.close(bucket, cost)

    def renew(self, request: str, reported: tuple[int, int], wall: int) -> bool:
        """Report progress and hold on for another lease; False where it is held no more."""
        now, held = self.clock.now(wall), self.held.get(request)
        if held is None:
            return False
        held.lease_ends, held.reported = now + self.lease_ms, reported
        for name in held.taken:
            rule = self.limits[name]
            if isinstance(rule, Slots):
                rule.take(request, held.lease_ends)
        return True

    def expired(self, wall: int) -> set[str]:
        """The requests whose lease has ended."""
        now = self.clock.now(wall)
        return {request for request, held in self.held.items() if held.lease_ends <= now}

    @staticmethod
    def _slide(rule: Rule, now: int, wall: int) -> None:
        if isinstance(rule, Budget):
            rule.slide(wall)
        else:
            rule.slide(now)

    @staticmethod
    def _used(rule: Rule) -> int:
        if isinstance(rule, Window):
            return rule.used()
        return len(rule.leases) if isinstance(rule, Slots) else rule.used or 0

    def _wait(self, name: str, cost: int, now: int, wall: int) -> int:
        rule = self.limits[name]
        if isinstance(rule, Window):
            gives_back = name in self.gives_back and rule.used() + cost - rule.cap <= rule.open()
            return SLOT_WAIT_MS if gives_back else rule.retry_after(now, cost)
        return SLOT_WAIT_MS if isinstance(rule, Slots) else month_of(wall)[1]

    def _take(self, rule: Rule, request: str, cost: int, now: int) -> int:
        if isinstance(rule, Window):
            return rule.take(now, cost)
        if isinstance(rule, Slots):
            rule.take(request, now + self.lease_ms)
            return 0
        assert rule.used is not None
        rule.used += cost
        return rule.month

    def _state(self, rule: Rule, now: int, wall: int) -> tuple[int, int]:
        used = self._used(rule)
        whole = 0
        if isinstance(rule, Window) and used > 0:
            whole = (rule.slide(now) + rule.span + 1) * rule.bucket_ms - now
        elif isinstance(rule, Budget) and used > 0:
            whole = month_of(wall)[1]
        return max(rule.cap - used, 0), whole
