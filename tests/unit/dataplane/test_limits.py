"""Plans as the data plane uses them, and what clients are told of their limits."""

from pathlib import Path

import msgspec
import pytest

from gateway.core.caller import Caller, Override
from gateway.core.errors import Unavailable
from gateway.core.reservation import Denial, LimitState
from gateway.dataplane.limits import Plans, denied, duration, limit_headers, limits_body
from gateway.fleet.file import Model, TritonModel
from gateway.fleet.models import ServedModel
from gateway.fleet.tokens import ByteCounter
from gateway.limits.plans import PlanError

MODEL = ServedModel(
    Model(
        name="m", triton=TritonModel("m"), endpoints=("a",), context_tokens=9, max_output_tokens=9, tokenizer="bytes"
    ),
    frozenset(),
    ByteCounter(),
    None,
    (),
)
PLAN = "{apiVersion: catflap/v1, kind: Plan, metadata: {id: %s, description: x}, spec: {default_max_tokens: 5}}"


@pytest.mark.parametrize(
    ("ms", "told"),
    [(0, b"0ms"), (12, b"12ms"), (999, b"999ms"), (1000, b"1s"), (1500, b"1.5s"), (10_000, b"10s"),
     (59_999, b"59.999s"), (60_000, b"1m0s"), (360_000, b"6m0s"), (61_250, b"1m1.25s"), (3_600_000, b"60m0s")],
)  # fmt: skip
def test_a_duration_is_spelt_as_openai_spells_it(ms: int, told: bytes) -> None:
    assert duration(ms) == told


def test_the_tightest_limit_of_each_measure_is_told_openais_way_and_all_of_them_by_name_in_ietfs() -> None:
    states = (
        LimitState("tokens_per_minute", "tokens", "key", 100, 50, 10, 60_000),
        LimitState("tokens_per_day", "tokens", "project", 1000, 20, 2000, 86_400_000),
        LimitState("requests_per_minute@m", "requests", "key", 7, 3, 60_000, 60_000, "m"),
        LimitState("concurrency", "concurrency", "key", 4, 1, 0),
        LimitState("cost_per_month", "cost", "organisation", 5000, 1999, 90_001),
    )
    assert dict(limit_headers(states)) == {
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"20",
        b"x-ratelimit-reset-tokens": b"2s",
        b"x-ratelimit-limit-requests": b"7",
        b"x-ratelimit-remaining-requests": b"3",
        b"x-ratelimit-reset-requests": b"1m0s",
        b"ratelimit-policy": b'"key.tokens_per_minute";q=100;w=60, "project.tokens_per_day";q=1000;w=86400, '
        b'"key.requests_per_minute@m";q=7;w=60, "key.concurrency";q=4, "organisation.cost_per_month";q=5',
        b"ratelimit": b'"key.tokens_per_minute";r=50;t=1, "project.tokens_per_day";r=20;t=2, '
        b'"key.requests_per_minute@m";r=3;t=60, "key.concurrency";r=1, "organisation.cost_per_month";r=1;t=91',
    }


def test_a_denial_names_the_limit_whose_it_is_and_the_wait() -> None:
    state = LimitState("tokens_per_minute", "tokens", "principal", 100, 5, 10, 60_000)
    error = denied(Denial(state, 1, 0, (state,)), 0)
    assert (error.status, error.type, error.code, error.retry_after_ms) == (429, "tokens", "rate_limit_exceeded", 1)
    assert error.message == "Rate limit reached: 100 tokens per minute for this principal. Try again in 1 s."


def test_a_denial_for_want_of_a_slot_promises_no_moment() -> None:
    state = LimitState("concurrency@m", "concurrency", "project", 2, 0, 0, 0, "m")
    error = denied(Denial(state, 100, 0, (state,)), 0)
    assert (error.status, error.type, error.retry_after_ms) == (429, "requests", 100)
    assert "2 requests at a time for this project" in error.message
    assert "model 'm' alone" in error.message


def test_a_spent_budget_is_another_error_that_clients_do_not_retry_and_says_when_it_is_renewed() -> None:
    state = LimitState("cost_per_month", "cost", "organisation", 5000, 1999, 90_001)
    error = denied(Denial(state, 3_600_000, 0, (state,)), 1_796_079_600_000)
    assert (error.status, error.type, error.code) == (429, "insufficient_quota", "insufficient_quota")
    assert error.retry_after_ms is None
    assert (b"x-should-retry", b"false") in error.headers
    assert "5 cost units a month, 1.999 left. It is renewed on 2026-12-01 (UTC)" in error.message


def test_a_budget_of_which_only_a_gateways_part_is_short_is_asked_for_again_soon() -> None:
    state = LimitState("cost_per_month", "cost", "organisation", 5000, 100, 3_600_000)
    error = denied(Denial(state, 5000, None, (state,)), 1_796_079_600_000)
    assert (error.status, error.type, error.code) == (429, "requests", "rate_limit_exceeded")
    assert error.retry_after_ms == 5000
    assert "Try again in 5 s" in error.message


def test_limits_are_listed_with_costs_in_cost_units() -> None:
    states = (
        LimitState("requests_per_minute", "requests", "key", 7, 3, 60_000, 60_000),
        LimitState("cost_per_month", "cost", "organisation", 5000, 1999, 90_001),
    )
    told = limits_body(states, "free")
    assert told["plan"] == "free"
    assert told["data"] == [
        {"name": "requests_per_minute", "level": "key", "measure": "requests", "model": None, "limit": 7,
         "remaining": 3, "reset_ms": 60_000},
        {"name": "cost_per_month", "level": "organisation", "measure": "cost", "model": None, "limit": 5.0,
         "remaining": 1.999, "reset_ms": 90_001},
    ]  # fmt: skip


def test_a_caller_that_has_changed_is_granted_anew(tmp_path: Path) -> None:
    (tmp_path / "free.yaml").write_text(PLAN % "free")
    plans = Plans.read(tmp_path)
    caller = Caller(organisation="o", project="p", principal="u", key="k", plan="free")
    assert plans.of(caller, MODEL).limits == ()
    own = msgspec.structs.replace(caller, overrides=(Override("requests", 5),))
    assert [limit.cap for limit in plans.of(own, MODEL).limits] == [5]
    assert plans.of(caller, MODEL).limits == ()


def test_a_limit_on_a_model_that_nobody_serves_is_found(tmp_path: Path) -> None:
    spec = "{default_max_tokens: 5, limits: [{measure: requests, limit: 1, model: gone}]}"
    (tmp_path / "free.yaml").write_text((PLAN % "free").replace("{default_max_tokens: 5}", spec))
    assert Plans.read(tmp_path).unserved({"m": MODEL}) == [("free", "gone")]


def test_a_plan_is_named_as_its_file(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no plan"):
        Plans.read(tmp_path)
    (tmp_path / "free.yaml").write_text(PLAN % "free")
    plans = Plans.read(tmp_path)
    caller = Caller(organisation="o", project="p", principal="u", key="k", plan="free")
    assert plans.of(caller, MODEL) is plans.of(caller, MODEL)
    assert plans.of(caller, MODEL)[1:] == (5, ())
    with pytest.raises(Unavailable):
        plans.of(Caller(organisation="o", project="p", principal="u", key="k2", plan="gone"), MODEL)
    (tmp_path / "other.yaml").write_text(PLAN % "free")
    with pytest.raises(PlanError, match=r"other\.yaml"):
        Plans.read(tmp_path)
