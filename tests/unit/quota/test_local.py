"""Limits while Redis is away: the gateways' parts add up to the limit, and no memory is kept that is not needed."""

import time
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits.budget import month_of
from gateway.limits.window import Window
from gateway.quota.connection import RedisUnavailable
from gateway.quota.gateways import Part
from gateway.quota.local import MAX_WAIT_MS, LocalLimits

MINUTE_MS = 60_000
NOW_MS = 1_780_000_000_000
ALONE = Part(1, 0)


class ALimit:
    """What local limits need of a limit."""

    def __init__(self, measure: str = "tokens", cap: int = 100, subject: str = "key_1") -> None:
        self.name, self.subject, self.measure, self.cap = f"{measure}_limit", subject, measure, cap
        self.window_ms, self.bucket_ms = MINUTE_MS, 1000


def local(part: Part | None = ALONE, **options: int) -> LocalLimits:
    return LocalLimits(lambda: part, **options)


def admitted(gateway: LocalLimits, request: str, limit: ALimit, cost: int, now_ms: int) -> bool:
    return gateway.admit(request, [limit], [cost], now_ms).refused_by == 0


@given(st.integers(1, 50), st.integers(0, 10**6))
def test_the_parts_of_all_gateways_add_up_to_the_cap(gateways: int, cap: int) -> None:
    assert sum(Part(gateways, number).share(cap) for number in range(gateways)) == cap


STEPS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 20_000), st.integers(1, 40), st.integers(0, 40)), max_size=120
)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 100), STEPS)
def test_gateways_that_know_of_each_other_admit_no_more_than_the_cap_in_any_window(
    number: int, cap: int, steps: list[tuple[int, int, int, int]]
) -> None:
    """Whatever is asked of whom and when, and whatever settles at less; counted by its reservation's instant."""
    gateways = [local(Part(number, place)) for place in range(number)]
    limit, now, taken = ALimit(cap=cap), NOW_MS, list[tuple[int, int]]()
    for step, (which, later, cost, used) in enumerate(steps):
        now += later
        gateway = gateways[which % number]
        if admitted(gateway, str(step), limit, cost, now):
            used = min(used, cost)
            gateway.settle(str(step), [used])
            taken.append((now, used))
        held = sum(units for when, units in taken if when > now - MINUTE_MS)
        assert held <= cap


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 60), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9_000),
       st.integers(1, 30), st.booleans()), max_size=150))  # fmt: skip
def test_however_often_redis_comes_and_goes_no_window_holds_more_than_twice_the_cap(
    number: int, cap: int, steps: list[tuple[int, int, int, bool]]
) -> None:
    gateways = [local(Part(number, place)) for place in range(number)]
    redis = Window(cap, MINUTE_MS, 1000)
    limit, now, taken = ALimit(cap=cap), NOW_MS, deque[tuple[int, int]]()
    for step, (which, later, cost, redis_is_there) in enumerate(steps):
        now += later
        if redis_is_there:
            if redis.fits(now, cost):
                redis.take(now, cost)
                taken.append((now, cost))
        elif admitted(gateways[which % number], str(step), limit, cost, now):
            taken.append((now, cost))
        assert sum(units for when, units in taken if when > now - MINUTE_MS) <= 2 * cap


def test_all_limits_are_taken_or_none() -> None:
    gateway, wide, narrow = local(), ALimit(cap=100), ALimit(cap=10, subject="project_1")
    answer = gateway.admit("a", [wide, narrow], [20, 20], NOW_MS)
    assert answer.refused_by == 2
    assert [state.remaining for state in answer.states] == [100, 10]
    answer = gateway.admit("b", [wide, narrow], [10, 10], NOW_MS)
    assert answer == (0, 0, ((90, 61_000), (0, 61_000)))
    assert gateway.admit("c", [wide, narrow], [1, 1], NOW_MS + 1500)[:2] == (59_500, 2)


def test_what_is_not_used_is_given_back_once() -> None:
    gateway, limit = local(), ALimit(cap=100)
    assert admitted(gateway, "a", limit, 100, NOW_MS)
    assert not admitted(gateway, "b", limit, 1, NOW_MS)
    assert gateway.settle("a", [30])
    assert not gateway.settle("a", [0]), "settled already"
    assert admitted(gateway, "c", limit, 70, NOW_MS)
    assert not admitted(gateway, "d", limit, 1, NOW_MS)


def test_what_exceeds_this_gateways_part_may_be_asked_again_soon() -> None:
    answer = local(Part(4, 0)).admit("a", [ALimit(cap=100)], [60], NOW_MS)
    assert answer[:2] == (MAX_WAIT_MS, 1), "Redis may be back by then"


def test_slots_come_back_at_settlement_and_the_parts_are_the_gateways() -> None:
    gateways, limit = [local(Part(2, 0)), local(Part(2, 1))], ALimit("concurrency", cap=3)
    taken = [admitted(gateway, f"{n}", limit, 1, NOW_MS) for gateway in gateways for n in range(3)]
    assert taken == [True, True, False, True, False, False]
    assert gateways[0].settle("0", [1])
    assert admitted(gateways[0], "again", limit, 1, NOW_MS)


def test_a_budget_that_was_never_heard_of_is_asked_for_and_then_spent_in_parts() -> None:
    gateway, limit = local(Part(2, 0)), ALimit("cost", cap=1000)
    assert gateway.admit("a", [limit], [1], NOW_MS)[:2] == (0, -1)
    gateway.hear(limit, 600, NOW_MS)
    assert admitted(gateway, "b", limit, 300, NOW_MS)
    assert gateway.admit("c", [limit], [1], NOW_MS).refused_by == 1
    gateway.settle("b", [350])  # its output cost more than the bound
    assert gateway.admit("d", [limit], [0], NOW_MS).refused_by == 1
    gateway.hear(limit, 0, NOW_MS)
    assert gateway.admit("e", [limit], [0], NOW_MS)[:2] == (month_of(NOW_MS)[1], 1)


def test_a_budget_of_which_only_this_gateways_part_is_short_may_be_asked_again_soon() -> None:
    gateway, limit = local(Part(2, 0)), ALimit("cost", cap=1000)
    gateway.hear(limit, 600, NOW_MS)
    assert gateway.admit("a", [limit], [301], NOW_MS)[:2] == (MAX_WAIT_MS, 1)
    assert gateway.admit("b", [limit], [601], NOW_MS)[:2] == (month_of(NOW_MS)[1], 1)
    assert admitted(gateway, "c", limit, 300, NOW_MS)
    assert gateway.admit("d", [limit], [300], NOW_MS)[:2] == (MAX_WAIT_MS, 1)
    assert gateway.admit("e", [limit], [301], NOW_MS)[:2] == (month_of(NOW_MS)[1], 1)


def test_what_runs_when_a_budget_is_heard_of_again_is_still_counted_and_given_back_only_once() -> None:
    gateway, limit = local(), ALimit("cost", cap=100)
    gateway.hear(limit, 100, NOW_MS)
    for number in range(10):
        assert admitted(gateway, f"a{number}", limit, 10, NOW_MS)
    gateway.hear(limit, 100, NOW_MS)
    assert not admitted(gateway, "b", limit, 1, NOW_MS), "Redis does not know what runs here"
    for number in range(10):
        assert gateway.settle(f"a{number}", [4])
    assert admitted(gateway, "c", limit, 60, NOW_MS)
    assert not admitted(gateway, "d", limit, 1, NOW_MS)
    gateway.settle("c", [0])
    gateway.hear(limit, 100, NOW_MS)
    assert not admitted(gateway, "e", limit, 101, NOW_MS)
    assert admitted(gateway, "f", limit, 100, NOW_MS)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["hear", "admit", "settle"]), st.integers(0, 60), st.integers(0, 9))))
def test_whatever_is_heard_and_settled_a_budget_never_gives_more_than_was_left_when_last_heard(
    steps: list[tuple[str, int, int]],
) -> None:
    gateway, limit = local(), ALimit("cost", cap=100)
    gateway.hear(limit, 100, NOW_MS)
    running, settled, left = dict[str, int](), 0, 100
    for step, (what, units, which) in enumerate(steps):
        if what == "hear":
            gateway.hear(limit, units, NOW_MS)
            settled, left = 0, units
        elif what == "settle" and running:
            request = sorted(running)[which % len(running)]
            used = min(units, running.pop(request))
            gateway.settle(request, [used])
            settled += used
        elif what == "admit":
            fits = left > settled + sum(running.values()) and units <= left - settled - sum(running.values())
            assert admitted(gateway, str(step), limit, units, NOW_MS) is fits
            if fits:
                running[str(step)] = units


def test_the_ledger_says_nothing_of_a_budget_that_this_gateway_knows() -> None:
    gateway, limit = local(), ALimit("cost", cap=100)
    gateway.restore(limit, 20, NOW_MS)
    assert admitted(gateway, "a", limit, 80, NOW_MS)
    gateway.settle("a", [80])
    gateway.restore(limit, 20, NOW_MS)  # another request's look-up, which ended later
    assert not admitted(gateway, "b", limit, 1, NOW_MS)


@pytest.mark.parametrize("measure", ["tokens", "concurrency", "cost"])
def test_a_cap_that_changes_holds_at_once(measure: str) -> None:
    gateway, small, large = local(), ALimit(measure, cap=2), ALimit(measure, cap=100)
    gateway.hear(small, 2, NOW_MS) if measure == "cost" else None
    assert admitted(gateway, "a", small, 2, NOW_MS)
    assert not admitted(gateway, "b", small, 1, NOW_MS)
    assert admitted(gateway, "c", large, 98, NOW_MS)
    assert not admitted(gateway, "d", large, 1, NOW_MS)
    gateway.settle("c", [0])
    assert not admitted(gateway, "e", small, 1, NOW_MS)


def test_last_months_budget_says_nothing_of_this_month() -> None:
    gateway, limit = local(), ALimit("cost")
    gateway.hear(limit, 5, NOW_MS)
    assert admitted(gateway, "a", limit, 1, NOW_MS)
    assert gateway.admit("b", [limit], [1], NOW_MS + month_of(NOW_MS)[1]).refused_by == -1


def test_a_gateway_that_has_never_heard_of_the_others_admits_nobody() -> None:
    with pytest.raises(RedisUnavailable):
        local(None).admit("a", [ALimit()], [1], NOW_MS)


def test_memory_is_bounded_and_a_window_in_use_is_never_forgotten() -> None:
    gateway = local(most=10)
    for number in range(10):
        assert admitted(gateway, f"{number}", ALimit(subject=f"s{number}"), 100, NOW_MS)
    with pytest.raises(RedisUnavailable):
        gateway.admit("more", [ALimit(subject="another")], [1], NOW_MS)
    assert not admitted(gateway, "again", ALimit(subject="s0"), 1, NOW_MS)
    assert admitted(gateway, "later", ALimit(subject="another"), 1, NOW_MS + 2 * MINUTE_MS)
    assert len(gateway) == 1


def test_room_is_found_however_many_limits_are_in_use_before_those_that_are_not() -> None:
    gateway = local(most=300)
    for number in range(300):
        assert admitted(gateway, f"{number}", ALimit("concurrency", subject=f"s{number}"), 1, NOW_MS)
    gateway.settle("299", [1])
    tries = 0
    while True:  # each looks at a few only, so that no request waits for all of them to be looked at
        tries += 1
        try:
            assert admitted(gateway, "more", ALimit(subject="another"), 1, NOW_MS)
            break
        except RedisUnavailable:
            assert tries < 10
    assert len(gateway) == 300


def test_a_request_that_is_refused_is_not_remembered() -> None:
    gateway = local()
    assert not admitted(gateway, "a", ALimit(cap=1), 2, NOW_MS)
    assert len(gateway) == 0


def test_budgets_heard_of_take_no_room_from_limits_in_use_and_the_oldest_goes() -> None:
    gateway, budgets = local(most=10), [ALimit("cost", subject=f"s{number}") for number in range(25)]
    for budget in budgets[:15]:
        gateway.hear(budget, 50, NOW_MS)
    gateway.hear(budgets[5], 50, NOW_MS)  # once more
    gateway.hear(budgets[15], 50, NOW_MS)
    assert admitted(gateway, "rate", ALimit(subject="another"), 1, NOW_MS)
    known = [gateway.admit("look", [budget], [60], NOW_MS).refused_by == 1 for budget in budgets[:16]]
    assert known == [False] * 5 + [True, False] + [True] * 9
    assert admitted(gateway, "used", budgets[15], 50, NOW_MS)
    for budget in budgets:
        gateway.hear(budget, 50, NOW_MS) if budget is not budgets[15] else None
    assert not admitted(gateway, "again", budgets[15], 1, NOW_MS), "one in use is not forgotten for others"


def test_to_hear_of_budgets_takes_no_longer_when_there_are_many() -> None:
    gateway = local(most=2_000)
    began = time.perf_counter()
    for number in range(2_000):
        gateway.hear(ALimit("cost", subject=f"s{number}"), 50, NOW_MS)
    filled = time.perf_counter() - began
    for number in range(2_000, 4_000):
        gateway.hear(ALimit("cost", subject=f"s{number}"), 50, NOW_MS)
    assert time.perf_counter() - began < 10 * filled + 1, "each looks through all of them"


def test_a_clock_that_steps_back_closes_and_opens_nothing() -> None:
    gateway, limit = local(), ALimit(cap=10)
    assert admitted(gateway, "a", limit, 10, NOW_MS)
    assert not admitted(gateway, "b", limit, 1, NOW_MS - 3_600_000)
    assert admitted(gateway, "c", limit, 1, NOW_MS - 3_600_000 + MINUTE_MS + 2000)
