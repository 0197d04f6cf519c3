"""Conditions: what is misspelt, dear or meaningless is told when it is checked; what is good says what its author
wrote."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.condition import ConditionError, read_condition
from gateway.policy.formula import All, Ask, Atom, Choose, Either, Not
from gateway.policy.syntax import Call, Const, Node, Truncated, read_expression, walk, write
from gateway.policy.text import Predicate
from gateway.policy.variables import USER_TEXT, VARIABLES, environment

SAID = Predicate(USER_TEXT, "contains", "secret")
ASKED = 'request.user_text.contains("secret")'


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('principal.stat == "x"', "did you mean 'principal.state'"),
        ("principal == 1", "no variable 'principal'"),
        ("frobnicate", "no variable 'frobnicate'"),
        ('principal.state == "containd"', "principal.state is never 'containd'; it is one of normal, watch"),
        ('"chatt" == request.endpoint', "request.endpoint is never 'chatt'"),
        ('principal.state in ["normal", "evil"]', "never 'evil'"),
        ('surge.plan != "storm"', "never 'storm'"),
        ("principal.state == 3", "no matching overload"),
        ("principal.score > 1", "no matching overload"),
        ("principal.state", "gives string"),
        ("[1, true][0]", "it must be true or false"),
        ("1 +", "Syntax error"),
        ("", "CEL|Syntax"),
        ("(" * 60 + "true" + ")" * 60, "recursion"),
        ("x" * 9000, "9,000 characters"),
        (" && ".join(["request.stream"] * 600), "characters|parts"),
        (" || ".join(["true"] * 450), "400 parts"),
        ('{"a": 1}["a"] == 1', "a map has no place"),
        ("has(principal.state)", "gives string"),
        ("principal.tags.map(t, t + t).size() > 2", "macro"),
        ('principal.tags.exists(a, principal.scopes.exists(b, a == b))', "loops once|another loop"),
        ('principal.tags.exists(a, principal.scopes.exists(b, principal.tags.all(c, c == a)))', "another loop"),
        ('["a"].exists(a, ["b"].all(b, a == b))', "another loop"),
        (f'principal.tags.exists(t, {ASKED})', "may neither ask"),
        ('principal.tags.exists(t, t.matches("a+"))', "nor use matches"),
        ('timestamp("2026-01-01T00:00:00Z") < timestamp("2027-01-01T00:00:00Z")', "no function"),
        ("string(request.n) == '1'", "no function"),
        ('request.user_text == "x"', "can only be asked"),
        ('request.user_text + "x" == "y"', "can only be asked"),
        ('"x" in [request.user_text]', "can only be asked"),
        ("request.user_text.contains(client.ip)", "literal"),
        ("request.user_text.matches(client.ip)", "literal"),
        ('"abc".matches("a")', "asks a variable"),
        (f"{ASKED} == true", "joined by"),
        (f"({ASKED} ? 1 : 2) == 1", "joined by"),
        ('request.user_text.contains("")', "nothing to look for"),
        ('request.user_text.contains(" \u200b")', "nothing to look for"),
        ('request.user_text.matches("(")', "none that RE2 takes"),
        (r'request.user_text.matches("(a)\\1")', "none that RE2 takes"),
        ('request.user_text.matches("(?=a)")', "none that RE2 takes"),
        ('request.user_text.matches("((a{100}){100}){100}")', "none that RE2 takes"),
        ('client.user_agent.matches("(a|b)*a(a|b){900}c")', "2,709 steps a character"),
        (f'request.user_text.matches("{"a" * 600}")', "600 characters"),
    ],
)  # fmt: skip
def test_a_bad_condition_is_told_in_a_sentence_and_at_once(source: str, said: str) -> None:
    began = time.thread_time()
    with pytest.raises(ConditionError, match=said):
        read_condition(source)
    assert time.thread_time() - began < 1


def test_the_line_of_the_mistake_is_told() -> None:
    for source in ('request.stream &&\n  principal.stat == "x"', 'request.stream &&\n principal.state == "evil"',
                   "request.stream &&\n string(request.n) == '1'", 'request.stream &&\n request.user_text.matches("(")',
                   "request.stream &&\n 1 +"):  # fmt: skip
        with pytest.raises(ConditionError) as told:
            read_condition(source)
        assert told.value.line == 1, source


def test_a_condition_that_asks_nothing_of_the_words_is_one_atom() -> None:
    found = read_condition('principal.state == "contained" && request.n > 2')
    assert found.formula == Atom(
        '((principal.state == "contained") && (request.n > 2))', ("principal.state", "request.n"), False
    )
    assert found.predicates == ()


def test_questions_are_taken_out_and_what_asks_nothing_stands_first_as_one_atom() -> None:
    found = read_condition(f"{ASKED} && request.stream && !({ASKED} || request.n > 1) && request.n < 9")
    assert found.formula == All(
        (
            Atom("(request.stream && (request.n < 9))", ("request.n", "request.stream"), False),
            Ask(SAID),
            Not(Either((Atom("(request.n > 1)", ("request.n",), False), Ask(SAID)))),
        )
    )
    assert found.predicates == (SAID,)


def test_a_choice_between_questions_is_a_formula_too() -> None:
    found = read_condition(f"request.stream ? {ASKED} : request.n > 1")
    stream = Atom("request.stream", ("request.stream",), False)
    assert found.formula == Choose(stream, Ask(SAID), Atom("(request.n > 1)", ("request.n",), False))


def test_the_length_of_the_words_is_a_fact_like_others() -> None:
    for source in ("size(request.user_text) > 5", "request.user_text.size() > 5"):
        assert read_condition(source).formula == Atom("(request.text_length > 5)", ("request.text_length",), False)


def test_what_can_fail_is_known() -> None:
    for source in ("100 / request.n > 3", "request.n % 2 == 0", 'principal.tags[0] == "a"', "request.n + 1 > 2"):
        formula = read_condition(source).formula
        assert isinstance(formula, Atom)
        assert formula.can_fail
    formula = read_condition('request.n > 1 && size(principal.tags) > 0 && !(client.ip in ["a"])').formula
    assert isinstance(formula, Atom)
    assert not formula.can_fail


@pytest.mark.parametrize(
    ("source", "state"),
    [
        ('principal.state == "watch"', {"watch"}),
        ('"watch" == principal.state', {"watch"}),
        ('principal.state in ["watch", "normal"]', {"watch", "normal"}),
        ('principal.state == "watch" || principal.state == "normal"', {"watch", "normal"}),
        ('principal.state == "watch" || request.stream', None),
        ('principal.state == "watch" && principal.state == "normal"', set()),
        ('principal.state in ["watch", "normal"] && principal.state in ["normal", "blocked"]', {"normal"}),
        ('principal.state != "watch"', None),
        ('!(principal.state == "watch")', None),
        ('principal.state == "watch" == request.stream', None),
        ('request.stream && (request.n > 1 && principal.state == "watch")', {"watch"}),
        ("false", set()),
        ("false || request.stream", None),
        ("principal.state == principal.plan", None),
    ],
)
def test_what_a_condition_demands_of_a_variable_is_found(source: str, state: set[str] | None) -> None:
    assert read_condition(source).allowed.get("principal.state") == state


CONDITIONS = st.sampled_from(
    [
        "request.stream",
        "request.n > -3",
        'principal.tags.exists(t, t.startsWith("a") || t == principal.plan)',
        "principal.scopes.all(s, s != 'x')",
        '"a\\"b\\\\\\né😀" in principal.tags',
        "principal.score >= 0.25",
        "(request.n > 1 ? request.stream : !request.stream)",
        "size(principal.tags) * 2 - 1 == 3",
        "-request.n < 5",
        'b"\\x00" == b"a"',
        "1u < 2u",
        "int(principal.score) == 1",
        "null == null",
    ]
)
COMBINED = st.recursive(
    CONDITIONS,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["&&", "||", "=="]), inner).map(lambda p: f"(({p[0]}) {p[1]} ({p[2]}))")
        | inner.map(lambda c: f"!({c})")
    ),
    max_leaves=6,
)


@given(COMBINED)
def test_a_tree_written_as_cel_and_read_again_is_the_same_tree(source: str) -> None:
    compiler = environment()
    tree = read_expression(compiler.compile(source).serialize())
    again = read_expression(compiler.compile(write(tree)).serialize())
    assert bare(again) == bare(tree)
    assert write(again) == write(tree)


def bare(tree: Node) -> list[object]:
    """A tree without the places in its source."""
    return [
        (type(node), getattr(node, "function", None), node.value if isinstance(node, Const) else None)
        for node in walk(tree)
    ]


def test_a_call_knows_where_it_stands_in_the_source() -> None:
    tree = read_expression(environment().compile("request.stream &&\n request.n > 1").serialize())
    assert isinstance(tree, Call)
    assert isinstance(tree.args[1], Call)
    assert tree.args[1].at == 29


@given(st.binary(max_size=60))
def test_bytes_that_are_no_expression_are_refused(data: bytes) -> None:
    try:
        read_expression(data)
    except (Truncated, UnicodeDecodeError):
        pass
    else:
        raise AssertionError("random bytes were taken for an expression")


def test_every_variable_has_a_type_and_says_what_it_is() -> None:
    assert all(variable.about for variable in VARIABLES.values())
    for name in VARIABLES:
        environment().compile(f"{name} == {name}")
