"""Limits while Redis is away and CATFLAP_REDIS_AWAY is `local`: each gateway enforces its part of every limit.

The parts of all gateways add up to the limit (gateways.py), so together they admit no more than it in any window, and
with what Redis admitted in the same window at most twice of it: the windows here go on sliding between two absences.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from gateway.limits.budget import month_of
from gateway.limits.slots import SLOT_WAIT_MS
from gateway.limits.window import Clock, Window
from gateway.quota.connection import RedisUnavailable
from gateway.quota.gateways import Part
from gateway.telemetry import metrics

MAX_ENTRIES = 20_000
"""Windows and budgets that are remembered; past that, requests on others are refused as if Redis were gone for good."""
MAX_WAIT_MS = 5_000
"""Told to whom this gateway's part can never serve: Redis, or a gateway with room, may by then."""


class LocalLimit(Protocol):
    """What is needed of a limit (gateway/limits/plans.py)."""

    @property
    def name(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def measure(self) -> str: ...
    @property
    def cap(self) -> int: ...
    @property
    def window_ms(self) -> int: ...
    @property
    def bucket_ms(self) -> int: ...


class LocalState(NamedTuple):
    """Where one limit stands here, for this gateway's part of it."""

    remaining: int
    reset_ms: int


class Answer(NamedTuple):
    """As the script ADMIT says it: `wait_ms` 0 and `refused_by` 0, or what refused it for longest, counted from 1;
    -(i): of limit i, a budget, nothing is known here; say it with `hear`, and ask again."""

    wait_ms: int
    refused_by: int
    states: tuple[LocalState, ...]


class Counter(Protocol):
    """One limit of one subject, as it is counted here."""

    def wait(self, now: int, cost: int, part: Part) -> int | None:
        """Milliseconds until `cost` fits, 0 if it fits now; None where nothing is known."""

    def take(self, now: int, cost: int) -> int:
        """Take it; what has to be said when it is given back."""

    def settle(self, taken: int, reserved: int, used: int) -> None:
        """`used` of what was reserved was used."""

    def state(self, now: int, part: Part) -> LocalState: ...

    def is_idle(self, now: int) -> bool:
        """Whether forgetting it changes nothing."""


class Rate:
    """Units in a sliding window."""

    def __init__(self, limit: LocalLimit) -> None:
        self._cap = limit.cap
        self._window = Window(0, limit.window_ms, limit.bucket_ms)

    def wait(self, now: int, cost: int, part: Part) -> int | None:
        self._window.cap = part.share(self._cap)
        if self._window.fits(now, cost):
            return 0
        return self._window.retry_after(now, cost) or MAX_WAIT_MS

    def take(self, now: int, cost: int) -> int:
        return self._window.take(now, cost)

    def settle(self, taken: int, reserved: int, used: int) -> None:
        self._window.correct(taken, used - reserved)

    def state(self, now: int, part: Part) -> LocalState:
        bucket, used = self._window.slide(now), self._window.used()
        reset = (bucket + self._window.span + 1) * self._window.bucket_ms - now if used else 0
        return LocalState(max(0, part.share(self._cap) - used), reset)

    def is_idle(self, now: int) -> bool:
        self._window.slide(now)
        return not self._window.buckets


class Concurrency:
    """Requests that run; this process ends each of them, so no lease is needed."""

    def __init__(self, limit: LocalLimit) -> None:
        self._cap = limit.cap
        self._running = 0

    def wait(self, now: int, cost: int, part: Part) -> int | None:
        return 0 if self._running + cost <= part.share(self._cap) else SLOT_WAIT_MS

    def take(self, now: int, cost: int) -> int:
        self._running += cost
        return 0

    def settle(self, taken: int, reserved: int, used: int) -> None:
        self._running -= reserved

    def state(self, now: int, part: Part) -> LocalState:
        return LocalState(max(0, part.share(self._cap) - self._running), 0)

    def is_idle(self, now: int) -> bool:
        return self._running == 0


class Budget:
    """What is left of a calendar month's budget, as last heard; this gateway spends its part of that."""

    def __init__(self, limit: LocalLimit) -> None:
        self._month = 0
        self._left = 0
        self._spent = 0

    def hear(self, now: int, left: int) -> None:
        """So much is left over all gateways; what this one has spent so far is in that."""
        self._month, self._left, self._spent = month_of(now)[0], left, 0

    def wait(self, now: int, cost: int, part: Part) -> int | None:
        if self._month != month_of(now)[0]:
            return None
        room = part.share(max(0, self._left)) - self._spent
        return 0 if room > 0 and cost <= room else month_of(now)[1]

    def take(self, now: int, cost: int) -> int:
        self._spent += cost
        return 0

    def settle(self, taken: int, reserved: int, used: int) -> None:
        self._spent += used - reserved

    def state(self, now: int, part: Part) -> LocalState:
        return LocalState(max(0, part.share(max(0, self._left)) - self._spent), month_of(now)[1])

    def is_idle(self, now: int) -> bool:
        return self._month != month_of(now)[0]


KINDS: dict[str, Callable[[LocalLimit], Counter]] = {"concurrency": Concurrency, "cost": Budget}
Taken = list[tuple[Counter, int, int]]


class LocalLimits:
    """All limits of all subjects, as one gateway enforces them by itself."""

    def __init__(self, part: Callable[[], Part | None], *, most: int = MAX_ENTRIES) -> None:
        """`part`: this gateway's, as last heard (`Gateways.part`)."""
        self._part = part
        self._most = most
        self._counters: dict[tuple[str, str], Counter] = {}
        self._held: dict[str, Taken] = {}
        self._clock = Clock()

    def __len__(self) -> int:
        """Limits that are remembered."""
        return len(self._counters)

    def hear(self, limit: LocalLimit, left: int, now_ms: int) -> None:
        """Of this budget so many units are left, says Redis or the ledger."""
        now = self._clock.now(now_ms)
        try:
            counter = self._counter(limit, now)
        except RedisUnavailable:
            return  # no room: it stays unknown
        if isinstance(counter, Budget):
            counter.hear(now, left)

    def admit(self, request: str, limits: Sequence[LocalLimit], costs: Sequence[int], now_ms: int) -> Answer:
        """Reserve `costs` on all limits, or nothing. `now_ms`: the wall clock, which may step. Raises RedisUnavailable
        where this gateway cannot know its part, or has no room to remember another limit."""
        part = self._part()
        if part is None:
            raise RedisUnavailable("how many gateways there are was never heard")
        now = self._clock.now(now_ms)
        counters = [self._counter(limit, now) for limit in limits]
        waits = [counter.wait(now, cost, part) for counter, cost in zip(counters, costs, strict=True)]
        refused_by = refusing(waits)
        if refused_by == 0:
            self._held[request] = [
                (counter, counter.take(now, cost), cost) for counter, cost in zip(counters, costs, strict=True)
            ]
        metrics.local_decisions.labels("refused" if refused_by else "admitted").inc()
        states = tuple(counter.state(now, part) for counter in counters)
        return Answer((waits[refused_by - 1] or 0) if refused_by > 0 else 0, refused_by, states)

    def settle(self, request: str, costs: Sequence[int]) -> bool:
        """What the request used, in the order of its limits. False: it was not admitted here, or has settled."""
        taken = self._held.pop(request, None)
        if taken is None:
            return False
        for (counter, mark, reserved), used in zip(taken, costs, strict=True):
            counter.settle(mark, reserved, used)
        return True

    def _counter(self, limit: LocalLimit, now: int) -> Counter:
        name = limit.subject, limit.name
        counter = self._counters.get(name)
        if counter is None:
            if len(self._counters) >= self._most:
                self._forget_idle(now)
            counter = self._counters[name] = KINDS.get(limit.measure, Rate)(limit)
        return counter

    def _forget_idle(self, now: int) -> None:
        """Those that hold nothing; a window in use must not be forgotten, or it would be given twice."""
        for name in [name for name, counter in self._counters.items() if counter.is_idle(now)]:
            del self._counters[name]
        if len(self._counters) >= self._most:
            raise RedisUnavailable("too many limits to keep them here")


def refusing(waits: Iterable[int | None]) -> int:
    """Which of the limits refuses for longest, from 1; -(i) where one is unknown; 0 where all admit."""
    longest, found = 0, 0
    for number, wait in enumerate(waits, 1):
        if wait is None:
            return -number
        if wait > longest:
            longest, found = wait, number
    return found
