"""Plan files: what is good binds, what is bad is told in a sentence that names the file and the place."""

from pathlib import Path

import pytest

from gateway.core.caller import Caller
from gateway.limits.plans import Limit, PlanError, binding, parse_plan, plan_schema

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


def test_a_plan_binds_its_limits_to_the_callers_key_in_the_order_of_the_file() -> None:
    assert binding(parse_plan(GOOD.encode(), "free.yaml"), CALLER) == (
        Limit("requests_per_minute", "key_1", "requests", 7, 60_000, 1_000),
        Limit("tokens_per_minute", "key_1", "tokens", 100, 60_000, 1_000),
    )


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("limit: 7", "limit: 0", "spec.limits[0].limit"),
        ("limit: 7", "limit: seven", "spec.limits[0].limit"),
        ("limit: 7", "limit: 7, burst: 3", "burst"),
        ("measure: requests", "measure: euros", "spec.limits[0].measure"),
        ("per: minute", "per: day", "spec.limits[1].per"),
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
    assert "requests" in str(plan_schema())
    assert "tokens" in str(plan_schema())
