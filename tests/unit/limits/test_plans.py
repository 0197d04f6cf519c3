"""Plan files: what is good binds, what is bad is told in a sentence that names the file and the place."""

from pathlib import Path

import msgspec
import pytest

from gateway.core.caller import Caller, Override
from gateway.core.delta import Usage
from gateway.limits.plans import Limit, Plan, PlanError, binding, parse_plan, plan_schema
from gateway.limits.weights import ONE_REQUEST, Weights

GOOD = """
apiVersion: catflap/v1
kind: Plan
metadata: {id: free, description: x}
spec:
  default_max_tokens: 20
  limits:
    - {measure: requests, limit: 7}
    - {measure: tokens, limit: 100, per: minute, at: key}
"""
CALLER = Caller(organisation="org", project="proj", principal="prin", key="key_1", plan="free")


PRICE = Weights(2000, 500, 4000, 7)


def plan(limits: str, weights: str = "{}") -> Plan:
    """A plan with these limits, as YAML says them."""
    text = f"""
apiVersion: catflap/v1
kind: Plan
metadata: {{id: p, description: x}}
spec: {{default_max_tokens: 20, limits: [{limits}], weights: {weights}}}
"""
    return parse_plan(text.encode(), "p.yaml")


def test_a_plan_binds_its_limits_to_the_callers_key_in_the_order_of_the_file() -> None:
    assert binding(parse_plan(GOOD.encode(), "free.yaml"), CALLER, ("m",), PRICE) == (
        Limit("requests_per_minute", "key", "key_1", "requests", 7, 60_000, 1_000, None, ONE_REQUEST),
        Limit("tokens_per_minute", "key", "key_1", "tokens", 100, 60_000, 1_000, None, Weights()),
    )


def test_every_measure_binds_at_every_level_and_a_cost_is_counted_in_thousandths_by_the_models_price() -> None:
    found = binding(
        plan(
            "{measure: tokens, per: day, at: organisation, limit: 5}, {measure: concurrency, at: project, limit: 2}, "
            "{measure: cost, at: principal, limit: 3}",
            "{prompt: 0.5, output: 3}",
        ),
        CALLER,
        ("m",),
        PRICE,
    )
    assert [(limit.name, limit.subject, limit.cap, limit.window_ms, limit.bucket_ms) for limit in found] == [
        ("tokens_per_day", "org", 5, 86_400_000, 900_000),
        ("concurrency", "proj", 2, 0, 0),
        ("cost_per_month", "prin", 3000, 0, 0),
    ]
    assert found[0].units(Usage(3, 2)) == 8  # 1.5 + 6, rounded up
    assert found[1].units(Usage(3, 2)) == 1
    assert found[2].units(Usage(3, 2, cached_tokens=1)) == 13  # 0.007 + 2 x 2 + 0.5 + 2 x 4, rounded up


def test_a_limit_on_one_model_binds_requests_for_that_model_only_under_a_name_of_its_own() -> None:
    both = plan("{measure: requests, limit: 7}, {measure: requests, limit: 3, model: big}")
    assert [limit.name for limit in binding(both, CALLER, ("big",), PRICE)] == [
        "requests_per_minute",
        "requests_per_minute@big",
    ]
    assert [limit.name for limit in binding(both, CALLER, ("small",), PRICE)] == ["requests_per_minute"]


def test_a_principals_own_limit_takes_the_place_of_the_plans_or_stands_beside_it() -> None:
    common = plan("{measure: requests, limit: 7, at: principal}, {measure: requests, limit: 9}")
    own = (Override("requests", 70), Override("tokens", 5, "day", "m"))
    caller = msgspec.structs.replace(CALLER, overrides=own)
    found = [(limit.name, limit.level, limit.cap) for limit in binding(common, caller, ("m",), PRICE)]
    assert found == [
        ("requests_per_minute", "principal", 70),
        ("requests_per_minute", "key", 9),
        ("tokens_per_day@m", "principal", 5),
    ]


@pytest.mark.parametrize("override", [Override("euros", 5), Override("tokens", 0), Override("tokens", 5, "month")])
def test_an_override_that_is_no_limit_is_told(override: Override) -> None:
    with pytest.raises(PlanError):
        binding(plan(""), msgspec.structs.replace(CALLER, overrides=(override,)), ("m",), PRICE)


def test_a_limit_on_an_alias_is_one_on_its_model() -> None:
    scarce = plan("{measure: requests, limit: 3, model: big-alias}")
    assert [limit.name for limit in binding(scarce, CALLER, ("big", "big-alias"), PRICE)] == [
        "requests_per_minute@big-alias"
    ]


def test_a_principals_own_limits_stand_beside_a_plan_that_has_all_it_can_have() -> None:
    limits = ", ".join(f"{{measure: tokens, limit: {n + 1}, per: day, model: m{n}}}" for n in range(15))
    own = tuple(Override("tokens", 5, "day", f"m{number}") for number in range(16))
    caller = msgspec.structs.replace(CALLER, overrides=own)
    names = [f"m{number}" for number in range(16)]
    assert len(binding(plan(limits + ", {measure: requests, limit: 1}"), caller, names, PRICE)) == 32


def test_a_cached_token_never_weighs_more_than_a_fresh_one() -> None:
    with pytest.raises(PlanError, match="cached"):
        plan("", "{prompt: 0.5, cached: 0.6}")


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("limit: 7", "limit: 0", "spec.limits[0].limit"),
        ("limit: 7", "limit: seven", "spec.limits[0].limit"),
        ("limit: 7", "limit: 7, burst: 3", "burst"),
        ("measure: requests", "measure: euros", "spec.limits[0].measure"),
        ("per: minute", "per: month", "minute or day"),
        ("id: free", "id: Free plan", "metadata.id"),
        ("kind: Plan", "kind: Policy", "kind"),
        ("default_max_tokens: 20", "default_max_token: 20", "default_max_token"),
        ("catflap/v1", "catflap/v2", "apiVersion"),
        ("{measure: tokens, limit: 100, per: minute, at: key}", "{measure: requests, limit: 8}", "two limits"),
        ("kind: Plan", "kind: [", "YAML"),
        ("kind: Plan", "kind: !!python/object:os.system {}", "YAML"),
    ],
)
def test_a_bad_plan_is_told_with_file_and_place(old: str, new: str, place: str) -> None:
    with pytest.raises(PlanError) as told:
        parse_plan(GOOD.replace(old, new).encode(), "plans/free.yaml")
    assert str(told.value).startswith("plans/free.yaml")
    assert place in str(told.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff\xfe\x00", b"\x00", b"null", b"7", b"&a [*a]"])
def test_what_is_no_plan_at_all_is_told_too(data: bytes) -> None:
    with pytest.raises(PlanError):
        parse_plan(data, "free.yaml")


@pytest.mark.parametrize("path", sorted(Path("policies/plans").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_plans_that_come_with_catflap_are_good(path: Path) -> None:
    assert parse_plan(path.read_bytes(), str(path)).metadata.id == path.stem


def test_the_schema_knows_every_measure() -> None:
    for measure in ("requests", "tokens", "concurrency", "cost"):
        assert measure in str(plan_schema())
