"""A policy file that cannot be used is told with file and line in one sentence, at once, whatever it holds."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.decision import Actions, Edit, Refusal, Shadow, Slow
from gateway.policy.loader import parse_policy
from gateway.policy.problem import PolicyError
from gateway.policy.ruleset import build_ruleset, no_rules
from tests.unit.policy.writing import CAT, FLAG, policy, text_of

GOOD = b"""apiVersion: catflap/v1
kind: Policy
metadata:
  id: catgpt
  description: A cat.
spec:
  mode: enforce
  covert: true
  priority: 7
  match: principal.state == "contained" &&
    request.endpoint == "chat"
  rollout: {percent: 50}
  actions:
    - rewrite: {prepend_system: You are a cat.}
    - canary: {}
examples:
  - given: {principal: {state: contained}}
    expect: {matched: true}
  - given: {}
    expect: {matched: false}
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        (b"mode: enforce", b"mode: enforced", 7, "spec.mode: Invalid enum value 'enforced'"),
        (b"  mode: enforce\n", b"", 7, "missing required field 'mode'"),
        (b"priority: 7", b"prioritee: 7", 9, "unknown field 'prioritee'"),
        (b"priority: 7", b"priority: high", 9, "Expected `?'?int"),
        (b"You are a cat.", b"''", 14, "length >= 1"),
        (b"prepend_system", b"prependsystem", 14, "prependsystem"),
        (b"percent: 50", b"percent: 101", 12, "<= 100"),
        (b"    - canary: {}", b"    - canary: {}\n    - deny: {}", 16, "covert, and deny can be seen"),
        (b"    - canary: {}", b"    - cap: {max_tokens: 3}", 15, "covert, and cap can be seen"),
        (b"    - canary: {}", b"    - throttle: {percent: 3}", 15, "covert, and throttle can be seen"),
        (b"covert: true", b"covert: false", 14, "must say covert: true"),
        (b"    - canary: {}", b"    - canary: {}\n      flag: x", 15, "says canary and flag"),
        (b"    - canary: {}", b"    - {}", 15, "says nothing"),
        (b"    - canary: {}", b"    - canary: {}\n    - canary: {}", 16, "a second canary"),
        (b"    - canary: {}", b"    - rewrite: {}", 15, "exactly one of prepend_system"),
        (b"    - canary: {}", b"    - shadow: {model: a, pool: b}", 15, "exactly one of model, pool"),
        (b"    - canary: {}", b"    - slow: {low: 0.9, high: 0.5}", 15, "above slow.high"),
        (b"    - canary: {}", b"    - rewrite: {replace: {pattern: '(', by: x}}", 15, "RE2"),
        (b"    - canary: {}", b"    - rewrite: {replace: {pattern: 'a*', by: x}}", 15, "empty text"),
        (b'"contained"', b'"containd"', 10, "never 'containd'"),
        (b"request.endpoint", b"request.endpoin", 10, "did you mean 'request.endpoint'"),
        (b"  rollout:", b"  schedule: {until: 2026-02-30T00:00Z}\n  rollout:", 12, "no moment 2026-02-30"),
        (b"  rollout:", b"  schedule: {from: 2026-03-01T00:00Z, until: 2026-03-01T00:00Z}\n  rollout:", 12,
         "never holds"),
        (b"  rollout:", b"  schedule: {until: tomorrow}\n  rollout:", 12, "until"),
        (b"{matched: false}", b"{matched: true}", 17, "no example fails to match"),
        (b"matched: true", b"matched: false", 17, "no example matches"),
        (b"kind: Policy", b"kind: Plan", 2, "kind"),
        (b"id: catgpt", b"id: Cat GPT", 4, "metadata.id"),
        (b"metadata:", b"metadata: [", 5, "YAML"),
    ],
)  # fmt: skip
def test_a_broken_file_is_told_with_file_and_line(old: bytes, new: bytes, line: int, said: str) -> None:
    assert old in GOOD
    with pytest.raises(PolicyError, match=said) as told:
        parse_policy(GOOD.replace(old, new, 1), "rules/cat.yaml")
    assert str(told.value).startswith(f"rules/cat.yaml, line {line}: ")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "match",
    [
        "x" * 1_000_000,
        " || ".join(["request.stream"] * 60_000),
        "(" * 50_000,
        'request.user_text.matches("(a|b)*a(a|b){900}c")',
        "principal.tags.exists(a, " * 50 + "true" + ")" * 50,
        "[" * 5_000 + "]" * 5_000,
    ],
)
def test_a_hostile_rule_is_refused_in_bounded_time(match: str) -> None:
    began = time.thread_time()
    with pytest.raises(PolicyError) as told:
        parse_policy(text_of(match), "huge.yaml")
    assert time.thread_time() - began < 10, "what is not bounded takes minutes; machines differ"
    assert told.value.line > 0


@given(st.binary(max_size=300))
def test_any_bytes_are_a_policy_or_a_sentence(data: bytes) -> None:
    with pytest.raises(PolicyError):
        parse_policy(data, "f.yaml")


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_one_changed_byte_is_a_policy_or_a_sentence(at: int, byte: int) -> None:
    try:
        parse_policy(GOOD[:at] + bytes([byte]) + GOOD[at + 1 :], "f.yaml")
    except PolicyError as problem:
        assert problem.line >= 1


def test_the_actions_of_a_file_are_one_value() -> None:
    covert = policy("true", CAT, '{rewrite: {replace: {pattern: "a+", by: b}}}', '{rewrite: {append_system: z}}',
                    '{rewrite: {prefix_last_user: y}}', "{canary: {}}", "{shadow: {pool: decoys}}",
                    "{slow: {}}", FLAG)  # fmt: skip
    assert covert.actions == Actions(
        edits=(
            Edit("prepend_system", "You are a cat."),
            Edit("replace", "b", "a+"),
            Edit("append_system", "z"),
            Edit("prefix_last_user", "y"),
        ),
        canary=True,
        shadow=Shadow(pool="decoys"),
        slow=Slow(0.75, 0.95),
        flags=("seen",),
    )
    assert covert.contains
    overt = policy("true", "{cap: {max_tokens: 9}}", "{throttle: {percent: 25, retry_after_s: 7}}", FLAG)
    assert overt.actions == Actions(max_tokens=9, flags=("seen",))
    assert overt.throttle is not None
    assert overt.throttle.percent == 25
    assert overt.throttle.refusal == Refusal(
        429, "rate_limit_exceeded", "Rate limit reached. Try again in 7 s.", retry_after_ms=7000
    )
    assert not overt.contains
    assert policy("true", "{deny: {status: 404, code: gone, message: No.}}").actions.refusal == Refusal(
        404, "gone", "No."
    )
    assert not policy("true", FLAG).contains


def test_deny_beside_throttle_makes_no_sense() -> None:
    with pytest.raises(PolicyError, match="keep one"):
        policy("true", "{deny: {}}", "{throttle: {percent: 5}}")


def test_an_empty_set_and_two_of_one_id_are_refused_and_no_rules_at_all_serve_as_usual() -> None:
    with pytest.raises(PolicyError, match="no policy here") as told:
        build_ruleset([], "policies/rules")
    assert str(told.value).startswith("policies/rules: ")
    with pytest.raises(PolicyError, match=r"taken by p\.yaml"):
        build_ruleset([policy("true"), policy("false")])
    with pytest.raises(PolicyError, match="at most 1,000"):
        build_ruleset([policy("true")] * 1001)
    assert no_rules().rules == ()


def test_the_version_is_the_contents_whatever_the_order_comments_and_spelling() -> None:
    one, two = policy("request.n > 1", name="a"), policy("request.n > 2", name="b")
    version = build_ruleset([one, two]).version
    assert build_ruleset([two, one]).version == version
    commented = parse_policy(b"# a comment\n" + text_of("request.n > 1", name="a").replace(b"mode:  ", b"mode: "), "x")
    assert build_ruleset([commented, two]).version == version
    assert build_ruleset([policy("request.n > 3", name="a"), two]).version != version
    assert build_ruleset([policy("request.n > 1", name="a", priority=1), two]).version != version
    assert build_ruleset([one]).version != version


def test_rules_stand_by_priority_then_by_id_and_those_that_are_off_not_at_all() -> None:
    found = build_ruleset(
        [policy("true", name="b"), policy("true", name="a"), policy("true", name="z", priority=5),
         policy("true", name="low", priority=-1), policy("true", name="off", mode="off")]
    )  # fmt: skip
    assert [rule.id for rule in found.rules] == ["z", "a", "b", "low"]
    assert "off" in [rule.id for rule in found.policies]
