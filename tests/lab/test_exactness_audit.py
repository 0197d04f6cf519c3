"""The auditor of `catflap lab exactness`: it accuses no exact limiter, however slow the machine, and finds a single
unit too many or too few. The limiter here is the model in gateway/limits; clients see it through random delays."""

import random
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits.window import Window
from lab.exactness.audit import SETTLED_WITHIN_S, Ask, Fate, audit_slots, audit_window
from lab.exactness.cases import KEYS, KINDS, LEVELS, Load, Size, cases
from lab.exactness.run import ask_of
from lab.house.client import Seen

CAP, WINDOW_S, BUCKET_S = 50, 60.0, 1.0
DELAY_S = 0.4


def asked(
    seed: int, *, cap: int = CAP, window_ms: int = 60_000, seconds: float = 150.0, delay_s: float = DELAY_S
) -> list[Ask]:
    """What clients saw of a limiter: requests of 1 to 9 units, each decided somewhere between sent and first byte."""
    chance, limiter = random.Random(seed), Window(cap, window_ms, 1000)
    asks, at, phase = [], 0.0, chance.randrange(1000)
    while at < seconds:
        at += chance.expovariate(3.0)
        units, now = chance.randint(1, 9), round(at * 1000) + phase
        fate: Fate = "refused"
        if limiter.fits(now, units):
            limiter.take(now, units)
            fate = "admitted"
        first = at + chance.random() * delay_s
        asks.append(Ask(at - chance.random() * delay_s, first, first, units, fate))
    return sorted(asks, key=lambda ask: ask.sent)


@given(seed=st.integers(0, 10**9), delay_s=st.sampled_from([0.0, 0.01, 1.0, 20.0]))
@settings(max_examples=40, deadline=None)
def test_an_exact_limiter_is_never_accused_however_long_answers_take(seed: int, delay_s: float) -> None:
    verdict = audit_window(asked(seed, delay_s=delay_s), CAP, WINDOW_S, BUCKET_S)
    assert verdict.exact
    assert verdict.fullest <= CAP


def test_a_limiter_that_uses_all_it_may_is_seen_to_use_all_but_a_bucket_in_61() -> None:
    verdict = audit_window(asked(1), CAP, WINDOW_S, BUCKET_S)
    assert verdict.used == pytest.approx(60 / 61, abs=0.03)
    assert verdict.asked > 10


@pytest.mark.parametrize("seed", range(10))
def test_one_unit_more_in_a_full_minute_is_found(seed: int) -> None:
    asks = asked(seed, delay_s=0.01)
    full = next(ask for ask in asks if audit_window(up_to(asks, ask), CAP, WINDOW_S, BUCKET_S).fullest == CAP)
    extra = msgspec.structs.replace(full, units=1, fate="admitted")
    assert audit_window([*asks, extra], CAP, WINDOW_S, BUCKET_S).over == 1


def up_to(asks: Iterable[Ask], last: Ask) -> list[Ask]:
    return [ask for ask in asks if ask.sent <= last.sent]


@pytest.mark.parametrize("seed", range(10))
def test_a_limiter_that_allows_one_unit_more_is_found(seed: int) -> None:
    assert audit_window(asked(seed, cap=CAP + 1), CAP, WINDOW_S, BUCKET_S).over >= 1


@pytest.mark.parametrize("seed", range(10))
def test_a_window_that_is_too_short_is_found(seed: int) -> None:
    assert audit_window(asked(seed, window_ms=57_000, delay_s=0.05), CAP, WINDOW_S, BUCKET_S).over >= 1


@pytest.mark.parametrize("seed", range(10))
def test_a_limiter_that_gives_one_unit_away_is_found(seed: int) -> None:
    verdict = audit_window(asked(seed, cap=CAP - 1), CAP, WINDOW_S, BUCKET_S)
    assert (verdict.over, verdict.wrong > 0) == (0, True)


@pytest.mark.parametrize("seed", range(10))
def test_a_window_that_is_too_long_is_found(seed: int) -> None:
    verdict = audit_window(asked(seed, window_ms=64_000, delay_s=0.05), CAP, WINDOW_S, BUCKET_S)
    assert (verdict.over, verdict.wrong > 0) == (0, True)


def test_a_request_of_unknown_fate_accuses_nobody_and_excuses_refusals() -> None:
    unknown = Ask(0.0, 0.1, 0.1, CAP, "unknown")
    admitted, refused = Ask(1.0, 1.1, 1.1, 1, "admitted"), Ask(200.0, 200.1, 200.1, CAP, "refused")
    verdict = audit_window([unknown, admitted, refused], CAP, WINDOW_S, BUCKET_S)
    assert (verdict.unknown, verdict.fullest, verdict.wrong) == (1, 1, 0)
    assert audit_window([admitted, refused], CAP, WINDOW_S, BUCKET_S).wrong == 1


def held(*spans: tuple[float, float]) -> list[Ask]:
    return [Ask(start, start + 0.1, stop, 1, "admitted") for start, stop in spans]


def test_requests_that_surely_ran_at_once_are_counted_and_those_that_may_have_followed_each_other_are_not() -> None:
    assert audit_slots(held((0.0, 2.2), (0.5, 2.7), (2.05, 4.2)), 2, 2.0, 20).fullest == 2
    assert audit_slots(held((0.0, 2.2), (0.5, 2.7), (1.85, 4.2)), 2, 2.0, 20).over == 1


def test_a_refusal_while_a_slot_was_surely_free_is_without_cause() -> None:
    busy = held((0.0, 2.2))
    right = Ask(2.2 + SETTLED_WITHIN_S - 0.1, 3.2, 3.2, 1, "refused")
    wrong = Ask(2.2 + SETTLED_WITHIN_S + 0.1, 3.4, 3.4, 1, "refused")
    assert audit_slots([*busy, right], 1, 2.0, 10).wrong == 0
    assert audit_slots([*busy, wrong], 1, 2.0, 10).wrong == 1


def test_slots_that_were_idle_between_two_refusals_lower_what_was_used() -> None:
    refused = [Ask(at, at + 0.1, at + 0.1, 1, "refused") for at in (0.0, 9.9)]
    assert audit_slots([*held((0.0, 5.0)), *refused], 1, 5.0, 10).used == pytest.approx(0.5)
    assert audit_slots([*held((0.0, 5.0), (5.0, 10.0)), *refused], 1, 5.0, 10).used == pytest.approx(1.0)


def test_every_kind_is_tried_at_every_level_and_once_with_a_fault() -> None:
    tried = cases(Load())
    assert {(case.kind, case.level) for case in tried if not case.planted} == {(k, lv) for k in KINDS for lv in LEVELS}
    assert [case.kind for case in tried if case.planted] == list(KINDS)
    assert all(case.wrong_limit()["limit"] > case.cap for case in tried)


def test_demand_is_spread_evenly_over_the_subjects_and_all_their_keys() -> None:
    for case in cases(Load()):
        per_subject = [sum(case.subject(key) == one for key in case.clients) for one in {*map(case.subject, range(4))}]
        assert max(per_subject) - min(per_subject) <= 1
        assert set(case.clients) == set(range(len(KEYS)))


@pytest.mark.parametrize("load", [Load(), Load(seconds=10.0, pause_s=2.5)])
def test_no_request_is_larger_than_its_limit_and_the_smallest_are_small(load: Load) -> None:
    chance = random.Random(1)
    for case in cases(load):
        sizes = [case.size(chance).units(case.kind) for _ in range(2000)]
        assert max(sizes) <= case.units
        assert min(sizes) <= max(1, case.units // 50)


@pytest.mark.parametrize(
    ("seen", "fate"),
    [
        (Seen(sent=0, first=1, last=1, status=200, whole=True, prompt_tokens=4, completion_tokens=2), "admitted"),
        (Seen(sent=0, first=1, last=1, status=429), "refused"),
        (Seen(sent=0, first=1, last=1, status=503), "unknown"),
        (Seen(sent=0, last=1), "unknown"),
    ],
)
def test_what_a_client_saw_says_whether_it_was_admitted(seen: Seen, fate: Fate) -> None:
    tokens = next(case for case in cases(Load()) if case.kind == "tokens_per_minute")
    ask = ask_of(tokens, Size(4, 2), seen)
    assert (ask.fate, ask.units) == (fate, 3)  # (4 x 0.25 + 2 x 0.75), rounded up
