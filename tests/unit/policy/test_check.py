"""check finds what loads and yet is wrong: examples that fail, rules that are never reached, what is dear or
expired."""

import pytest

from gateway.core.record import MAX_ANSWERS
from gateway.policy.check import asked_at_once, check, covers, never_holds
from gateway.policy.condition import read_condition
from gateway.policy.examples import run_examples
from gateway.policy.loader import Policy, parse_policy
from gateway.policy.schedule import unix_of
from tests.unit.policy.writing import CAT, FLAG, text_of

DENY = "{deny: {}}"
EXAMPLES = "{given: {}, expect: {matched: true}}", "{given: {}, expect: {matched: false}}"
YES = 'request: {model: "yes"}', 'request: {model: "no"}'


def good(match: str, *actions: str, name: str = "p", **spec: object) -> Policy:
    """A policy whose examples hold: it asks for a model besides."""
    data = text_of(f'request.model == "yes" && ({match})', *actions, name=name, **spec).decode()
    for example, given in zip(EXAMPLES, YES, strict=True):
        given = f"{given}, principal: {{state: contained}}, client: {{country: JP}}"
        data = data.replace(example, example.replace("given: {}", f"given: {{{given}}}"))
    return parse_policy(data.encode(), f"{name}.yaml")


def told(*policies: Policy, now: str | None = None) -> list[str]:
    return [str(finding) for finding in check(policies, None if now is None else unix_of(now))]


def test_good_policies_find_nothing() -> None:
    assert told(good('principal.state == "contained"', CAT), good("true && request.n < 9", FLAG, name="b")) == [
        "b.yaml, line 8: warning: a part of the condition is always true."
    ]
    assert told(good('principal.state == "contained"', CAT)) == []


@pytest.mark.parametrize(
    ("match", "reason"),
    [
        ('principal.plan == "a" && principal.plan == "b"', "principal.plan to have two values"),
        ('client.country in ["a", "b"] && client.country == "c"', "client.country to have two values"),
        ("false && request.stream", "a part of it is false"),
    ],
)
def test_what_can_never_hold_is_told(match: str, reason: str) -> None:
    found = told(good(match, mode="log"))
    assert any("example fails" in finding for finding in found)
    assert any("can never hold" in finding and reason in finding for finding in found)
    assert never_holds(read_condition(match)) is not None
    assert never_holds(read_condition("request.stream")) is None


def test_a_rule_behind_a_refusal_that_matches_all_that_it_does_is_never_reached() -> None:
    wide = good('client.country == "JP"', DENY, name="wide", priority=5)
    narrow = good('client.country == "JP" && principal.state == "contained"', CAT, name="narrow")
    unreached = "narrow.yaml, line 8: warning: it is never reached: wide refuses all that it matches."
    assert told(wide, narrow) == [unreached]
    assert told(good('client.country in ["FR", "JP"]', DENY, name="wide", priority=5), narrow) == [unreached]
    assert told(narrow, good('client.country == "JP"', DENY, name="wide", priority=-5)) == []
    for harmless in (
        good('client.country == "JP"', DENY, name="wide", priority=5, rollout="{percent: 50}"),
        good('client.country == "JP"', DENY, name="wide", priority=5, mode="log"),
        good('client.country == "JP"', DENY, name="wide", priority=5, schedule="{until: 2030-01-01T00:00Z}"),
        good('client.country == "JP"', "{throttle: {percent: 50}}", name="wide", priority=5),
        good('client.country == "JP" && request.n < 5', DENY, name="wide", priority=5),
    ):
        assert told(harmless, narrow) == []
    logged = good('client.country == "JP" && principal.state == "contained"', CAT, name="narrow", mode="log")
    assert told(wide, logged) == []


def test_a_shadow_or_slowness_behind_another_never_counts() -> None:
    first = good('principal.state == "contained"', "{shadow: {pool: a}}", name="a", priority=5)
    assert told(first, good('principal.state == "contained"', "{shadow: {pool: b}}", name="b")) == [
        "b.yaml, line 9: warning: its shadow never counts: that of a goes first."
    ]
    assert told(first, good('principal.state == "contained"', "{slow: {}}", name="b")) == []


@pytest.mark.parametrize(
    ("wide", "narrow", "does"),
    [
        ("request.n > 1", "request.n > 1 && request.stream", True),
        ("request.n > 1 && request.stream", "request.stream && request.n > 1", True),
        ("request.n > 1 && request.stream", "request.n > 1", False),
        ("true", "request.n > 1", True),
        ('principal.plan in ["a", "b"]', 'principal.plan == "b"', True),
        ('principal.plan == "b"', 'principal.plan in ["a", "b"]', False),
        ('principal.plan in ["a", "b"]', "request.stream", False),
        ("request.n > 1", "request.n > 2", False),  # it is not certain to this check, so it is not said
        ('request.user_text.contains("a")', 'request.user_text.contains("a") && request.stream', True),
    ],
)
def test_what_covers_what(wide: str, narrow: str, does: bool) -> None:
    assert covers(read_condition(wide), read_condition(narrow)) is does


def test_what_has_expired_or_is_dear_or_contains_anybody_is_told() -> None:
    expired = good('principal.state == "contained"', CAT, schedule="{until: 2026-01-01T00:00Z}")
    assert told(expired, now="2026-01-01T00:00Z") == ["p.yaml, line 5: warning: the policy has expired; take it out."]
    assert told(expired, now="2025-12-31T23:59Z") == []
    assert told(expired) == []
    dear = good('!request.user_text.matches("(a|b){1,90}c")', FLAG)
    assert "steps a character" in told(dear)[0]
    assert "whoever they are" in told(good("request.n < 9", CAT))[0]
    assert told(good("request.n < 9", CAT, mode="log")) == []
    assert told(good('!("x" in principal.tags)', CAT)) == []


def example(given: str, expect: str, *actions: str) -> list[str]:
    """What is said of one more example."""
    data = text_of('principal.state == "contained"', *actions).decode()
    data = data.replace("{given: {}, expect: {matched: true}}", f"{{given: {{{given}}}, expect: {{{expect}}}}}")
    try:
        loaded = parse_policy(data.encode(), "p.yaml")
    except Exception as problem:  # noqa: BLE001 (told below, whatever it is)
        return [str(problem)]
    return [failure.sentence for failure in run_examples(loaded)]


CONTAINED = "principal: {state: contained}, request: {messages: [{role: user, content: hi}], max_tokens: 9}"


@pytest.mark.parametrize(
    ("given", "expect", "actions", "said"),
    [
        (CONTAINED, "matched: true", [FLAG], []),
        (CONTAINED + ", never_contain: true", "matched: true", [CAT], ["it does not match, and should."]),
        (CONTAINED + ", containment: false", "matched: true", [CAT], ["it does not match, and should."]),
        ("", "matched: true", [FLAG], ["it does not match, and should."]),
        (CONTAINED, "matched: true, rewritten: {0: {role: system, contains: cat, equals: You are a cat.}}", [CAT], []),
        (CONTAINED, "matched: true, rewritten: {1: {equals: hi}}", [CAT], []),
        (CONTAINED, "matched: true, rewritten: {0: {contains: phrase}}", ["{canary: {}}"], []),
        (CONTAINED, "matched: true, rewritten: {0: {role: user}}", [CAT],
         ["message 0 is of the role 'system', and should be 'user'."]),
        (CONTAINED, "matched: true, rewritten: {0: {contains: dog}}", [CAT], ["message 0 does not contain 'dog'."]),
        (CONTAINED, "matched: true, rewritten: {1: {equals: ho}}", [CAT], ["message 1 is not 'ho'."]),
        (CONTAINED, "matched: true, rewritten: {2: {equals: ho}}", [CAT],
         ["there is no message 2 in the rewritten prompt, which has 2."]),
        ("principal: {state: contained}, request: {prompt: [a, b]}", "matched: true, rewritten: {1: {contains: cat}}",
         [CAT], []),
        (CONTAINED, "matched: true, denied: true", [DENY], []),
        (CONTAINED, "matched: true, denied: false", [DENY], ["denied is True, and should be False."]),
        (CONTAINED, "matched: true, max_tokens: 5", ["{cap: {max_tokens: 6}}"], ["max_tokens is 6, and should be 5."]),
        (CONTAINED, "matched: true, shadow: d", ["{shadow: {pool: d}}"], []),
        (CONTAINED, "matched: true, shadow: d", ["{shadow: {model: d}}"], []),
        (CONTAINED, "matched: true, shadow: d", [CAT], ["shadow is None, and should be 'd'."]),
        (CONTAINED, "matched: true, flags: [seen]", [FLAG], []),
        (CONTAINED, "matched: true, flags: [x]", [FLAG], ["flags is ('seen',), and should be ('x',)."]),
    ],
)  # fmt: skip
def test_examples_are_run_and_what_differs_is_told(
    given: str, expect: str, actions: list[str], said: list[str]
) -> None:
    assert example(given, expect, *actions) == said


@pytest.mark.parametrize(
    "given",
    ["principal: {stat: x}", "principal: {state: evil}", "signals: {probe: high}", "now: 2026-02-30T00:00Z", "x: 1",
     "surge: {plan: storm}", "client: {asn: x}"],
)  # fmt: skip
def test_facts_that_are_none_are_told(given: str) -> None:
    data = text_of('principal.state == "contained"').decode()
    data = data.replace("{given: {}, expect: {matched: true}}", f"{{given: {{{given}}}, expect: {{matched: true}}}}")
    try:
        found = told(parse_policy(data.encode(), "p.yaml"))
    except Exception as problem:  # noqa: BLE001 (told below, whatever it is)
        found = [str(problem)]
    assert found[0].startswith("p.yaml, line 11: ")


def test_a_misspelt_fact_is_an_error_and_not_a_fact_that_is_left_out() -> None:
    assert "unknown field 'stat'" in example("principal: {stat: contained}", "matched: true")[0]


def test_an_example_whose_condition_fails_is_told() -> None:
    loaded = parse_policy(text_of("1 / request.max_tokens > 0"), "p.yaml")
    assert [failure.sentence for failure in run_examples(loaded)] == [
        "the condition gives an error on these facts, neither true nor false.", "it does not match, and should.",
        "the condition gives an error on these facts, neither true nor false.",
    ]  # fmt: skip


def test_an_example_is_judged_as_enforced_in_full_and_at_any_time_unless_it_names_one() -> None:
    for spec in (
        {"mode": "log"},
        {"mode": "off"},
        {"rollout": "{percent: 0}"},
        {"schedule": "{until: 2020-01-01T00:00Z}"},
    ):
        assert told(good('principal.state == "contained"', CAT, **spec)) == []
    data = text_of("request.n == 1", schedule="{from: 2026-01-01T00:00Z}").decode()
    for moment, matched in (("2025-01-01T00:00Z", "false"), ("2026-01-01T00:00Z", "true")):
        data = data.replace(f"{{given: {{}}, expect: {{matched: {matched}}}}}",
                            f"{{given: {{now: {moment}}}, expect: {{matched: {matched}}}}}")  # fmt: skip
    assert run_examples(parse_policy(data.encode(), "p.yaml")) == ()


def asking(first: int, last: int, also: str = "true") -> str:
    """A condition that asks these questions."""
    questions = (f'request.user_text.contains("{number}")' for number in range(first, last))
    return f"({' || '.join(questions)}) && {also}"


def test_rules_that_ask_more_of_one_request_than_a_record_holds_are_told() -> None:
    def curious(*conditions: str) -> list[Policy]:
        return [good(one, name=f"p{number}", priority=-number) for number, one in enumerate(conditions)]

    def warned(*conditions: str) -> list[str]:
        found = [str(finding) for finding in check(curious(*conditions)) if finding.level == "warning"]
        return [finding for finding in found if "things about the words" in finding]

    half = MAX_ANSWERS // 2
    parts = [asking(start, start + 32) for start in range(0, MAX_ANSWERS, 32)]
    assert warned(*parts) == []
    assert warned(*parts, asking(0, 32)) == []
    (finding,) = warned(*parts, asking(0, 33), asking(MAX_ANSWERS, MAX_ANSWERS + 1), asking(900, 910))
    assert finding.startswith("p9.yaml, line 9: warning: with it the rules may ask 267 things about the words")
    plans = [f'principal.plan == "{name}"' for name in ("a", "b")]
    apart = [asking(start, start + 32, plans[start // half % 2]) for start in range(0, 2 * MAX_ANSWERS, 32)]
    assert asked_at_once(curious(*apart)) == MAX_ANSWERS
    assert warned(*apart) == []
    assert warned(*apart, asking(900, 901)) != []
    off = [good(one, name=f"p{number}", mode="off") for number, one in enumerate([*parts, asking(900, 920)])]
    assert not any("things about" in finding for finding in told(*off))
