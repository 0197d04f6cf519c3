"""Limits while Redis is away and CATFLAP_REDIS_AWAY is `local`: each gateway enforces its part of every limit.

The parts of all gateways add up to the limit (gateways.py), so together they admit no more than it in any window, and
with what Redis admitted in the same window at most twice of it: the windows here go on sliding between two absences.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

from gateway.limits.budget import month_of
from gateway.limits.slots import SLOT_WAIT_MS
from gateway.limits.window import Clock, Window
from gateway.quota.connection import RedisUnavailable
from gateway.quota.gateways import Part
from gateway.telemetry import metrics

MAX_ENTRIES = 20_000
"""Limits in use that are remembered; past that, requests on others are refused as if Redis were gone for good. As many
budgets that were heard of and not used since are kept beside them, and the one heard of longest ago goes."""
LOOKED_AT = 64
"""Limits that are looked at to find room for another; the next request looks at the next ones."""
MAX_WAIT_MS = 5_000
"""Told to whom only this gateway's part cannot serve: Redis, or a gateway with room, may by then."""


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
    """One limit of one subject, as it is counted here. Its cap is that of the limit that is asked: plans change."""

    def wait(self, now: int, cost: int, cap: int, part: Part) -> int | None:
        """Milliseconds until `cost` fits, 0 if it fits now; None where nothing is known."""

    def take(self, now: int, cost: int) -> int:
        """Take it; what has to be said when it is given back."""

    def settle(self, taken: int, reserved: int, used: int) -> None:
        """`used` of what was reserved was used."""

    def state(self, now: int, cap: int, part: Part) -> LocalState: ...

    def is_idle(self, now: int) -> bool:
        """Whether forgetting it changes nothing."""


class Rate:
    """Units in a sliding window."""

    def __init__(self, limit: LocalLimit) -> None:
        self._window = Window(0, limit.window_ms, limit.bucket_ms)

    def wait(self, now: int, cost: int, cap: int, part: Part) -> int | None:
        self._window.cap = part.share(cap)
        if self._window.fits(now, cost):
            return 0
        return self._window.retry_after(now, cost) or MAX_WAIT_MS

    def take(self, now: int, cost: int) -> int:
        return self._window.take(now, cost)

    def settle(self, taken: int, reserved: int, used: int) -> None:
        self._window.correct(taken, used - reserved)

    def state(self, now: int, cap: int, part: Part) -> LocalState:
        bucket, used = self._window.slide(now), self._window.used()
        reset = (bucket + self._window.span + 1) * self._window.bucket_ms - now if used else 0
        return LocalState(max(0, part.share(cap) - used), reset)

    def is_idle(self, now: int) -> bool:
        self._window.slide(now)
        return not self._window.buckets


class Concurrency:
    """Requests that run; this process ends each of them, so no lease is needed."""

    def __init__(self, _limit: LocalLimit) -> None:
        self._running = 0

    def wait(self, now: int, cost: int, cap: int, part: Part) -> int | None:
        return 0 if self._running + cost <= part.share(cap) else SLOT_WAIT_MS

    def take(self, now: int, cost: int) -> int:
        self._running += cost
        return 0

    def settle(self, taken: int, reserved: int, used: int) -> None:
        self._running -= reserved

    def state(self, now: int, cap: int, part: Part) -> LocalState:
        return LocalState(max(0, part.share(cap) - self._running), 0)

    def is_idle(self, now: int) -> bool:
        return self._running == 0


class Heard(NamedTuple):
    """Of a calendar month's budget so much was used over all gateways."""

    month: int
    used: int


UNHEARD = Heard(0, 0)


class Budget:
    """A calendar month's budget, as last heard; this gateway spends its part of what was left then."""

    def __init__(self, _limit: LocalLimit) -> None:
        self._heard = UNHEARD
        self._unsettled = 0  # reserved here in that month by requests that run
        self._spent = 0  # that, and what settled here since it was heard

    def hear(self, heard: Heard) -> None:
        """What settled here before is in that, or will be soon; what has not settled cannot be."""
        if heard.month != self._heard.month:
            self._unsettled = 0
        self._heard, self._spent = heard, self._unsettled

    @property
    def month(self) -> int:
        """What is known is that month's."""
        return self._heard.month

    @property
    def runs(self) -> bool:
        """Whether something reserved here has not settled."""
        return self._unsettled > 0

    def wait(self, now: int, cost: int, cap: int, part: Part) -> int | None:
        month, month_left = month_of(now)
        if self._heard.month != month:
            return None
        left = max(0, cap - self._heard.used)
        if has_room(part.share(left) - self._spent, cost):
            return 0
        return min(MAX_WAIT_MS, month_left) if has_room(left - self._spent, cost) else month_left

    def take(self, now: int, cost: int) -> int:
        self._unsettled += cost
        self._spent += cost
        return self._heard.month

    def settle(self, taken: int, reserved: int, used: int) -> None:
        if taken == self._heard.month:
            self._unsettled -= reserved
            self._spent += used - reserved

    def state(self, now: int, cap: int, part: Part) -> LocalState:
        left = max(0, cap - self._heard.used)
        return LocalState(max(0, part.share(left) - self._spent), month_of(now)[1])

    def is_idle(self, now: int) -> bool:
        return self._heard.month != month_of(now)[0] or (self._spent == 0 and not self.runs)


def has_room(left: int, cost: int) -> bool:
    """A budget that is spent admits nothing, not even what costs nothing."""
    return left > 0 and cost <= left


KINDS: dict[str, Callable[[LocalLimit], Counter]] = {"concurrency": Concurrency, "cost": Budget}
Taken = list[tuple[Counter, int, int]]
Name = tuple[str, str]


class LocalLimits:
    """All limits of all subjects, as one gateway enforces them by itself."""

    def __init__(self, part: Callable[[], Part | None], *, most: int = MAX_ENTRIES) -> None:
        """`part`: this gateway's, as last heard (`Gateways.part`)."""
        self._part = part
        self._most = most
        self._counters: OrderedDict[Name, Counter] = OrderedDict()  # in use, the one used longest ago first
        self._heard: OrderedDict[Name, Heard] = OrderedDict()  # budgets not in use, the one heard of longest ago first
        self._held: dict[str, Taken] = {}
        self._clock = Clock()

    def __len__(self) -> int:
        """Limits in use that are remembered."""
        return len(self._counters)

    def hear(self, limit: LocalLimit, left: int, now_ms: int) -> None:
        """Of this budget so many units are left, says Redis."""
        name = limit.subject, limit.name
        heard = Heard(month_of(self._clock.now(now_ms))[0], limit.cap - left)
        counter = self._counters.get(name)
        if isinstance(counter, Budget):
            counter.hear(heard)
            if counter.runs:
                return
            del self._counters[name]
        self._heard.pop(name, None)
        if len(self._heard) >= self._most:
            self._heard.popitem(last=False)
        self._heard[name] = heard

    def restore(self, limit: LocalLimit, spent: int, now_ms: int) -> None:
        """Of this budget so many units are spent, says the ledger. What this gateway knows already is newer."""
        name, month = (limit.subject, limit.name), month_of(self._clock.now(now_ms))[0]
        counter = self._counters.get(name)
        known = counter.month if isinstance(counter, Budget) else self._heard.get(name, UNHEARD).month
        if known != month:
            self.hear(limit, limit.cap - spent, now_ms)

    def admit(self, request: str, limits: Sequence[LocalLimit], costs: Sequence[int], now_ms: int) -> Answer:
        """Reserve `costs` on all limits, or nothing. `now_ms`: the wall clock, which may step. Raises RedisUnavailable
        where this gateway cannot know its part, or has no room to remember another limit."""
        part = self._part()
        if part is None:
            raise RedisUnavailable("how many gateways there are was never heard")
        now = self._clock.now(now_ms)
        self._make_room(limits, now)
        counters = [self._counter(limit) for limit in limits]
        waits = [
            counter.wait(now, cost, limit.cap, part)
            for counter, limit, cost in zip(counters, limits, costs, strict=True)
        ]
        refused_by = refusing(waits)
        if refused_by == 0:
            self._take(request, limits, counters, costs, now)
        metrics.local_decisions.labels("refused" if refused_by else "admitted").inc()
        states = tuple(counter.state(now, limit.cap, part) for counter, limit in zip(counters, limits, strict=True))
        return Answer((waits[refused_by - 1] or 0) if refused_by > 0 else 0, refused_by, states)

    def settle(self, request: str, costs: Sequence[int]) -> bool:
        """What the request used, in the order of its limits. False: it was not admitted here, or has settled."""
        taken = self._held.pop(request, None)
        if taken is None:
            return False
        for (counter, mark, reserved), used in zip(taken, costs, strict=True):
            counter.settle(mark, reserved, used)
        return True

    def _counter(self, limit: LocalLimit) -> Counter:
        """The limit's, which is remembered once something is taken from it."""
        name = limit.subject, limit.name
        counter = self._counters.get(name)
        if counter is None:
            counter = KINDS.get(limit.measure, Rate)(limit)
            if isinstance(counter, Budget):
                counter.hear(self._heard.get(name, UNHEARD))
        return counter

    def _take(
        self, request: str, limits: Sequence[LocalLimit], counters: Sequence[Counter], costs: Sequence[int], now: int
    ) -> None:
        taken = self._held[request] = []
        for limit, counter, cost in zip(limits, counters, costs, strict=True):
            name = limit.subject, limit.name
            self._heard.pop(name, None)
            self._counters[name] = counter
            self._counters.move_to_end(name)
            taken.append((counter, counter.take(now, cost), cost))

    def _make_room(self, limits: Sequence[LocalLimit], now: int) -> None:
        """Forget some that hold nothing; a window in use must not be forgotten, or it would be given twice."""
        if self._fits(limits):
            return
        for name in list(islice(self._counters, LOOKED_AT)):
            if self._counters[name].is_idle(now):
                del self._counters[name]
            else:
                self._counters.move_to_end(name)  # looked at again after all others
        if not self._fits(limits):
            raise RedisUnavailable("too many limits to keep them here")

    def _fits(self, limits: Sequence[LocalLimit]) -> bool:
        fresh = sum((limit.subject, limit.name) not in self._counters for limit in limits)
        return len(self._counters) + fresh <= self._most or fresh == 0


def refusing(waits: Iterable[int | None]) -> int:
    """Which of the limits refuses for longest, from 1; -(i) where one is unknown; 0 where all admit."""
    longest, found = 0, 0
    for number, wait in enumerate(waits, 1):
        if wait is None:
            return -number
        if wait > longest:
            longest, found = wait, number
    return found
