"""Plans as the data plane uses them, and what clients are told of their limits."""

from pathlib import Path

import pytest

from gateway.core.caller import Caller
from gateway.core.errors import Unavailable
from gateway.core.reservation import Denial, LimitState
from gateway.dataplane.limits import Plans, denied, duration, limit_headers
from gateway.limits.plans import PlanError

PLAN = "{apiVersion: catflap/v1, kind: Plan, metadata: {id: %s, description: x}, spec: {default_max_tokens: 5}}"


@pytest.mark.parametrize(
    ("ms", "told"),
    [(0, b"0ms"), (12, b"12ms"), (999, b"999ms"), (1000, b"1s"), (1500, b"1.5s"), (10_000, b"10s"),
     (59_999, b"59.999s"), (60_000, b"1m0s"), (360_000, b"6m0s"), (61_250, b"1m1.25s"), (3_600_000, b"60m0s")],
)  # fmt: skip
def test_a_duration_is_spelt_as_openai_spells_it(ms: int, told: bytes) -> None:
    assert duration(ms) == told


def test_the_tightest_limit_of_each_measure_is_told() -> None:
    states = (
        LimitState("a", "tokens", 100, 50, 10),
        LimitState("b", "tokens", 1000, 20, 2000),
        LimitState("c", "requests", 7, 3, 60_000),
    )
    assert dict(limit_headers(states)) == {
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"20",
        b"x-ratelimit-reset-tokens": b"2s",
        b"x-ratelimit-limit-requests": b"7",
        b"x-ratelimit-remaining-requests": b"3",
        b"x-ratelimit-reset-requests": b"1m0s",
    }


def test_a_denial_names_limit_and_wait() -> None:
    state = LimitState("tokens_per_minute", "tokens", 100, 5, 10)
    error = denied(Denial(state, 1, 0, (state,)))
    assert (error.status, error.type, error.code) == (429, "tokens", "rate_limit_exceeded")
    assert "100 tokens per minute" in error.message
    assert "1 s" in error.message


def test_a_plan_is_named_as_its_file(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no plan"):
        Plans.read(tmp_path)
    (tmp_path / "free.yaml").write_text(PLAN % "free")
    plans = Plans.read(tmp_path)
    caller = Caller(organisation="o", project="p", principal="u", key="k", plan="free")
    assert plans.of(caller) == plans.of(caller) == (5, ())
    with pytest.raises(Unavailable):
        plans.of(Caller(organisation="o", project="p", principal="u", key="k2", plan="gone"))
    (tmp_path / "other.yaml").write_text(PLAN % "free")
    with pytest.raises(PlanError, match=r"other\.yaml"):
        Plans.read(tmp_path)
