"""Remembering by rank instead of by value changes no result, and makes requests that differ in length alike."""

from collections.abc import Sequence
from math import inf, nan, nextafter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.facts import ClientFacts, Facts, NowFacts, PrincipalFacts, RequestFacts
from gateway.policy.condition import read_condition
from gateway.policy.matcher import REMEMBERED, Matcher
from gateway.policy.ranks import ranks
from gateway.policy.syntax import read_expression
from gateway.policy.text import Answers, Test, compile_predicate, visible
from gateway.policy.variables import USER_TEXT, VARIABLES, cel_value, environment
from tests.unit.policy.writing import facts

COMPILER = environment()
LEAST, MOST = -(2**63), 2**63 - 1
WHOLE = st.sampled_from([LEAST, LEAST + 1, -7, -1, 0, 1, 2, 1000, 2**53, 2**53 + 1, MOST - 1, MOST])
DOUBLES = st.sampled_from([-1e308, -0.5, -0.0, 0.0, 5e-324, 0.1, 0.5, nextafter(0.5, 1), 1.0, 1e308])
TEXTS = st.sampled_from(["", "a", "A", "a ", "curl/8", "kätzchen", "\U0001f408"])
ORDER = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])

NUMBERS = ("request.prompt_tokens", "request.max_tokens", "now.unix")
NAMES = ("principal.id", "client.user_agent")


def compared(
    names: tuple[str, ...], constants: st.SearchStrategy[str], order: st.SearchStrategy[str]
) -> st.SearchStrategy[str]:
    """Comparisons of one of the variables with constants, from either side, and with lists of them."""
    name = st.sampled_from(names)
    return (
        st.tuples(name, order, constants).map(" ".join)
        | st.tuples(constants, order, name).map(" ".join)
        | st.tuples(name, st.lists(constants, max_size=3)).map(lambda p: f"{p[0]} in [{', '.join(p[1])}]")
    )


COMPARISONS = (
    compared(NUMBERS, WHOLE.map(str), ORDER)
    | compared(("principal.score",), DOUBLES.map(repr), ORDER)
    | compared(NAMES, TEXTS.map(lambda text: f'"{text}"'), st.sampled_from(["==", "!=", "<"]))
)
OTHERS = st.sampled_from([
    "request.prompt_tokens % 3 == 0", "request.max_tokens + 1 > 2", "request.prompt_tokens == request.max_tokens",
    "double(request.prompt_tokens) > 0.5", "principal.score * 2.0 > 1.0", "request.max_tokens in [1, 2.0]",
    "client.user_agent.contains('8')", "principal.id.startsWith('a')", "size(principal.id) > 1",
    "client.user_agent == principal.id", "principal.id in principal.tags", "principal.tags == []",
    "principal.tags.exists(tag, tag == principal.id && request.max_tokens > 1)", "client.user_agent.matches('^k')",
    'request.user_text.contains("secret")', "true",
])  # fmt: skip
CONDITIONS = st.recursive(
    COMPARISONS | COMPARISONS | OTHERS,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})")
        | inner.map(lambda condition: f"!({condition})")
        | st.tuples(inner, inner, inner).map(lambda p: f"({p[0]} ? {p[1]} : {p[2]})")
    ),
    max_leaves=4,
)
COUNTS = st.tuples(WHOLE, st.sampled_from([-1, 0, 1])).map(sum) | st.integers(-3, 3)
AGENTS = TEXTS | st.sampled_from(["b", "curl/9", "\ud800", "ä"])
FACTS = st.builds(
    Facts,
    principal=st.builds(
        PrincipalFacts,
        id=TEXTS | st.just("zz"),
        score=DOUBLES | st.floats(allow_nan=False),
        tags=st.sampled_from([(), ("a",), ("curl/8", "A")]),
    ),
    request=st.builds(RequestFacts, prompt_tokens=COUNTS, max_tokens=COUNTS),
    client=st.builds(ClientFacts, user_agent=AGENTS),
    now=st.builds(NowFacts, unix=COUNTS),
    texts=st.sampled_from([(), ("a secret",)]),
)


def alone(source: str, known: Facts) -> bool | None:
    """What CEL itself says of a condition; None for an error."""
    data = {name: cel_value(variable.of(known)) for name, variable in VARIABLES.items() if name in source}
    if "client.user_agent.matches" in source:
        data["client.user_agent"] = data["client.user_agent"].encode("utf-8", "replace").decode()
    try:
        value = COMPILER.compile(source).eval(data=data | {USER_TEXT: visible(known.texts)}).value()
    except (RuntimeError, ValueError, OverflowError):
        return None
    return value if isinstance(value, bool) else None


def fit(known: Facts) -> bool:
    """Whether every fact is a value to CEL."""
    counts = (known.request.prompt_tokens, known.request.max_tokens, known.now.unix)
    return all(LEAST <= count <= MOST for count in counts) and known.client.user_agent != "\ud800"


@settings(max_examples=60, deadline=None)
@given(st.lists(CONDITIONS, min_size=1, max_size=8), st.lists(FACTS, min_size=1, max_size=8))
def test_what_is_remembered_by_rank_is_what_cel_says_of_each_request_by_itself(
    sources: list[str], requests: list[Facts]
) -> None:
    conditions = [read_condition(source) for source in sources]
    tests: dict[str, Test] = {
        each.id: compile_predicate(each) for condition in conditions for each in condition.predicates
    }
    matcher, again = Matcher(conditions), Matcher(conditions)
    for known in requests:
        live = Answers(known, tests)
        found = matcher.match(known, live)
        for index, source in enumerate(sources):
            said = alone(source, known)
            assert not found.yes >> index & 1 or said is True, source
            # a fact that is no value to CEL may spoil conditions that do not need it; they are said to have failed
            if said is not None and (fit(known) or not found.failed >> index & 1):
                assert bool(found.yes >> index & 1) is said, source
        assert Matcher(conditions).match(known, Answers(known, tests)) == found, "what was remembered differs"
        assert again.match(known, Answers(known, tests, live.given)) == found, "recorded differs from live"


KINDS: dict[str, tuple[st.SearchStrategy[str], Sequence[object]]] = {
    "now.unix": (
        compared(("now.unix",), WHOLE.map(str), ORDER),
        [n + d for n in (LEAST, -7, -1, 0, 1, 2, 1000, 2**53, MOST) for d in (-1, 0, 1) if LEAST <= n + d <= MOST],
    ),
    "principal.score": (
        compared(("principal.score",), DOUBLES.map(repr), ORDER),
        [nextafter(n, to) for n in (-1e308, -0.5, 0.0, 0.5, 1.0, 1e308) for to in (-inf, n, inf)] + [nan, -inf],
    ),
    "client.user_agent": (
        compared(("client.user_agent",), TEXTS.map(lambda text: f'"{text}"'), st.sampled_from(["==", "!=", "<"])),
        ["", "a", "A", "a ", "b", "curl/8", "curl/9", "k\u00e4tzchen", "\u00e4", "\U0001f408"],
    ),
}


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=50, deadline=None)
@given(st.data())
def test_values_of_one_rank_are_one_to_cel(name: str, data: st.DataObject) -> None:
    comparisons, values = KINDS[name]
    source = " || ".join(data.draw(st.lists(comparisons, min_size=1, max_size=3)))
    expression = COMPILER.compile(source)
    rank = ranks(read_expression(expression.serialize())).get(name, repr)
    said: dict[object, bool] = {}
    for value in values:
        truth = expression.eval(data={name: value}).value()
        assert said.setdefault(rank(value), truth) is truth, (source, value)


def ranked(source: str) -> set[str]:
    return set(ranks(read_expression(COMPILER.compile(source).serialize())))


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("request.prompt_tokens > 1000 && 5 <= request.n", {"request.prompt_tokens", "request.n"}),
        ("principal.score in [0.5, 0.7] ? now.unix != -1 : now.unix in []", {"principal.score", "now.unix"}),
        ('principal.id == "x" || "y" != client.user_agent', {"principal.id", "client.user_agent"}),
        ("request.n > 1 && request.n + 1 > 3", set()),
        ("request.n > 1 && [request.n].exists(n, n == 2)", set()),
        ("request.n == request.max_tokens", set()),
        ("request.n in [1, 2.0] || request.n in [1, 2u] || request.n in [request.max_tokens]", set()),
        ('client.country < "m" || size(client.ip) > 3 || client.network.startsWith("10.")', set()),
        ('principal.tags == [] || "x" in principal.tags || request.stream == true', set()),
        ('principal.state == "watch" && surge.plan in ["calm"]', set()),
    ],
)
def test_only_variables_that_are_compared_with_constants_and_nothing_else_have_a_rank(
    source: str, names: set[str]
) -> None:
    assert ranked(source) == names


def numbers(source: str, name: str, values: list[float]) -> list[object]:
    rank = ranks(read_expression(COMPILER.compile(source).serialize()))[name]
    return [rank(value) for value in values]


def test_a_rank_tells_what_is_below_equal_and_above() -> None:
    found = numbers("request.n > 10 || request.n == 20", "request.n", [-5, 9, 10, 11, 19, 20, 21, MOST])
    assert found == [1, 1, 2, 3, 3, 4, 5, 5]
    found = numbers("principal.score > 0.5", "principal.score", [-inf, 0.4, 0.5, nextafter(0.5, 1), 1e308, inf, nan])
    assert found == [0, 0, 1, 2, 2, 3, 3]


def test_what_is_no_value_to_cel_shares_its_rank_with_nothing_that_is() -> None:
    found = numbers(f"request.n < {MOST} || request.n > {LEAST}", "request.n", [LEAST - 1, LEAST, 0, MOST, MOST + 1])
    assert len(set(found)) == 5
    matcher = Matcher([read_condition('client.user_agent == "x"'), read_condition("request.n != 3")])
    for agent, count, yes, failed in (("y", 1, 2, 0), ("\ud800", 1, 0, 3), ("y", 2**63, 0, 3), ("x", 2, 3, 0)):
        known = Facts(client=ClientFacts(user_agent=agent), request=RequestFacts(n=count))
        assert matcher.match(known, Answers(known, {}))[::2] == (yes, failed)


def test_requests_of_any_length_at_any_time_are_one_to_a_rule_about_long_ones() -> None:
    matcher = Matcher([read_condition('request.prompt_tokens > 90000 && client.user_agent != "x" && now.unix > 0')])
    for number in range(3 * REMEMBERED):
        known = Facts(
            request=RequestFacts(prompt_tokens=number),
            client=ClientFacts(user_agent=f"agent {number}"),
            now=NowFacts(unix=1_790_000_000 + number),
        )
        assert matcher.match(known, Answers(known, {})).yes == 0
    assert [len(chunk._remembered) for chunk in matcher._chunks] == [1]


def test_a_number_too_great_to_be_one_is_still_a_condition() -> None:
    matcher = Matcher([read_condition("principal.score < 1e400 && principal.score > -1e400")])
    assert matcher.match(facts(), Answers(facts(), {})).yes == 1
