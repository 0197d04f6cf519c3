"""The matcher says what CEL says of each condition by itself, at a price that falls with what cannot match."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.facts import (
    ClientFacts,
    Facts,
    NowFacts,
    PrincipalFacts,
    RequestFacts,
    SignalFacts,
    SurgeFacts,
)
from gateway.core.fold import fold
from gateway.policy import matcher as matcher_module
from gateway.policy.condition import read_condition
from gateway.policy.matcher import Matcher, Matches
from gateway.policy.text import GAP, HALF, Answers, Predicate, Test, compile_predicate, visible
from gateway.policy.variables import USER_TEXT, VARIABLES, cel_value, environment
from tests.unit.policy.writing import facts

ATOMS = (
    'principal.state == "contained"', 'principal.state in ["watch", "suspicious"]', 'principal.state != "normal"',
    'request.endpoint == "chat"', 'request.endpoint in ["chat", "completions"]', 'principal.plan == "free"',
    'request.model == "demo"', "principal.age_days < 3", "principal.score > 0.5", '"vip" in principal.tags',
    "request.stream", "request.n * 2 > 3", "100 / request.max_tokens > 10", 'principal.tags[0] == "vip"',
    'principal.tags.exists(t, t.startsWith("v"))', 'request.user_text.contains("secret")',
    'request.user_text.matches("s.cret|zzz")', 'request.user_text.startsWith("hello")',
    'request.user_text.endsWith("bye")', 'client.user_agent.matches("^curl")', "request.user_text.size() > 6",
    "true", "false",
)  # fmt: skip
FORMULAS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: (
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})")
        | inner.map(lambda c: f"!({c})")
        | st.tuples(inner, inner, inner).map(lambda p: f"({p[0]} ? {p[1]} : {p[2]})")
    ),
    max_leaves=6,
)
FACTS = st.builds(
    Facts,
    principal=st.builds(
        PrincipalFacts,
        state=st.sampled_from(["normal", "watch", "suspicious", "contained", "blocked"]),
        plan=st.sampled_from(["free", "pro"]),
        age_days=st.integers(0, 5),
        score=st.sampled_from([0.0, 0.5, 0.9]),
        tags=st.sampled_from([(), ("vip",), ("a", "vip")]),
    ),
    request=st.builds(
        RequestFacts,
        endpoint=st.sampled_from(["chat", "completions", "embeddings"]),
        model=st.sampled_from(["demo", "other"]),
        stream=st.booleans(),
        n=st.integers(1, 3),
        max_tokens=st.integers(0, 12),
        text_length=st.integers(0, 12),
    ),
    client=st.builds(ClientFacts, user_agent=st.sampled_from(["curl/8", "python", "\ud800"])),
    texts=st.lists(st.sampled_from(["hello", "secret", "S\u200bECRET", "zzz", "bye", "é\n"]), max_size=3).map(tuple),
)


COMPILER = environment()


def alone(source: str, known: Facts) -> bool | None:
    """What CEL itself says of a condition that may read the words, None for an error: the oracle."""
    data: dict[str, Any] = {name: cel_value(variable.of(known)) for name, variable in VARIABLES.items()}
    data["client.user_agent"] = data["client.user_agent"].encode("utf-8", "replace").decode()
    data[USER_TEXT] = visible(known.texts)
    source = source.replace("request.user_text.size()", "request.text_length")
    value = COMPILER.compile(source).eval(data=data).value()
    return value if isinstance(value, bool) else None


def answers(matcher_facts: Facts, sources: list[str]) -> Answers:
    tests: dict[str, Test] = {
        predicate.id: compile_predicate(predicate)
        for source in sources
        for predicate in read_condition(source).predicates
    }
    return Answers(matcher_facts, tests)


@settings(max_examples=100, deadline=None)
@given(st.lists(FORMULAS, min_size=1, max_size=8), FACTS)
def test_every_condition_holds_exactly_where_cel_says_so(sources: list[str], known: Facts) -> None:
    found = Matcher([read_condition(source) for source in sources]).match(known, answers(known, sources))
    for index, source in enumerate(sources):
        said = alone(source, known)
        assert bool(found.yes >> index & 1) is (said is True), source
        if said is None and not found.failed >> index & 1:
            # a condition that is ruled out by what it demands is not evaluated, so its error is not met
            assert not found.yes >> index & 1
        if said is not None:
            assert not found.failed >> index & 1, source
    assert found.unknown == 0


def test_an_error_spoils_only_its_own_condition_and_is_counted() -> None:
    sources = ["100 / request.max_tokens > 3", "request.max_tokens == 0", 'principal.tags[5] == "x"',
               'request.n == 1 && request.user_text.contains("hi")',
               '100 / request.max_tokens > 3 && request.user_text.contains("hi")',
               '100 / request.max_tokens > 3 || request.user_text.contains("hi")',
               '100 / request.max_tokens > 3 && request.user_text.contains("ho")']  # fmt: skip
    known = facts("hi")
    found = Matcher([read_condition(source) for source in sources]).match(known, answers(known, sources))
    assert found == Matches(yes=0b0101010, unknown=0, failed=0b0010101)


def test_what_was_not_recorded_is_unknown_only_where_it_matters() -> None:
    sources = ['request.n == 1 && request.user_text.contains("x")', 'request.n == 2 && request.user_text.contains("x")',
               'request.n == 1 || request.user_text.contains("x")', 'request.n == 2 || request.user_text.contains("x")',
               '!request.user_text.contains("x")', 'request.user_text.contains("y") && request.user_text.contains("x")',
               'request.user_text.contains("y") || request.user_text.contains("x")']  # fmt: skip
    known = facts()
    name = Predicate(USER_TEXT, "contains", "y").id
    recorded = Answers(known, {}, {name: False})
    found = Matcher([read_condition(source) for source in sources]).match(known, recorded)
    assert found == Matches(yes=0b0000100, unknown=0b1011001, failed=0)


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts what CEL is asked."""
    counted = [0]
    evaluate = matcher_module._Chunk.evaluate

    def counting(self: matcher_module._Chunk, known: Facts) -> tuple[int, int]:
        counted[0] += 1
        return evaluate(self, known)

    monkeypatch.setattr(matcher_module._Chunk, "evaluate", counting)
    return counted


def test_rules_that_cannot_match_are_not_evaluated_and_the_words_are_not_read(
    evaluations: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [
        f'principal.state == "contained" && request.n > {n} && request.user_text.contains("x{n}")' for n in range(1, 41)
    ]
    sources += [f'request.model == "honeypot-{n}"' for n in range(40)]
    sources += [f'principal.plan in ["p{n}"] && request.endpoint == "completions"' for n in range(20)]
    matcher = Matcher([read_condition(source) for source in sources])
    known = facts("hello")
    asked = answers(known, sources)
    assert matcher.match(known, asked) == Matches(0, 0, 0)
    assert evaluations == [0]
    assert asked.given == {}
    contained = facts("hello x3", state="contained")
    asked = answers(contained, sources)
    assert matcher.match(contained, asked).yes == 0
    assert evaluations == [2]  # forty conditions, 24 at a time
    assert asked.given == {}  # none is left open by its atoms: n is 1


def test_a_hundred_rules_are_few_evaluations(evaluations: list[int]) -> None:
    sources = [f'principal.age_days < {n} && client.country == "c{n}"' for n in range(100)]
    Matcher([read_condition(source) for source in sources]).match(facts(), answers(facts(), sources))
    assert evaluations == [5]


def test_a_condition_without_any_value_is_ruled_out_too(evaluations: list[int]) -> None:
    matcher = Matcher([read_condition('principal.state == "watch" && principal.state == "normal"')])
    for state in ("watch", "normal", ""):
        assert matcher.match(facts(state=state), answers(facts(), [])) == Matches(0, 0, 0)
    assert evaluations == [0]


MIXED = (
    'principal.state in ["contained", "watch"] && principal.age_days < {n}',
    'request.endpoint == "chat" && request.prompt_tokens > 90{n}0',
    'principal.plan == "p{n}" && signals.probe > 0.5',
    'signals.content > 0.9 && !("vip" in principal.tags) && request.n != {n}',
    'signals.probe > 0.9 && request.user_text.contains("phrase {n}")',
)


def test_a_fact_that_cel_does_not_take_matches_nothing_and_is_counted() -> None:
    sources = ['client.user_agent == "x"', "request.n == 1", 'request.n == 1 && request.user_text.contains("x")']
    for lost in (Facts(client=ClientFacts(user_agent="\ud800")), Facts(request=RequestFacts(n=2**70))):
        found = Matcher([read_condition(source) for source in sources]).match(lost, answers(lost, sources))
        assert found == Matches(0, 0, 0b011)  # the third does not hold, whatever its atom would have been


def test_a_condition_goes_over_a_list_of_bounded_length() -> None:
    matcher = Matcher([read_condition('principal.tags.exists(tag, tag == "last")')])
    for others, seen in ((63, 1), (64, 0)):
        known = facts(tags=("other",) * others + ("last",))
        assert matcher.match(known, answers(known, [])).yes == seen


def test_what_is_remembered_is_right_and_bounded() -> None:
    matcher = Matcher([read_condition("principal.age_days % 2 == 0"), read_condition("principal.age_days > 3000")])
    for _ in range(2):
        for days in range(0, 5000, 3):
            known = facts(age_days=days)
            assert matcher.match(known, answers(known, [])).yes == (days % 2 == 0) + 2 * (days > 3000)
    for chunk in matcher._chunks:
        assert 0 < len(chunk._remembered) <= matcher_module.REMEMBERED


@given(st.lists(st.text(max_size=30), max_size=5).map(tuple))
def test_short_words_are_seen_whole_and_folded(texts: tuple[str, ...]) -> None:
    assert visible(texts) == fold("\n".join(texts))


@pytest.mark.parametrize("pieces", [1, 7, 4000])
def test_of_long_words_both_ends_are_seen(pieces: int) -> None:
    long = "begin " + "x" * 50_000 + " middle " + "y" * 50_000 + " end"
    size = -(-len(long) // pieces)
    texts = tuple(long[at : at + size] for at in range(0, len(long), size))
    seen = visible(texts)
    assert len(seen) <= 2 * HALF + 1
    assert seen.startswith("be")
    assert seen.endswith("nd")
    assert "m" not in seen.replace("em", "")
    assert seen.count(GAP) == 1
    if pieces == 1:
        assert seen == long[:HALF] + GAP + long[-HALF:]


def test_the_ends_are_folded_from_front_to_back() -> None:
    accent = "e\u0301"  # e and an accent of its own: one letter when composed, in this order only
    assert visible(("x" * 40_000 + accent,)).endswith("x\u00e9")


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ("SYSTEM", "system"),
        ("ｓｙｓｔｅｍ", "system"),
        ("sys\u200btem", "system"),
        ("sys\u00adtem", "system"),
        ("sy\ufeffst\u2060em", "system"),
        (" a \n\t b ", "a b"),
        ("Straße", "strasse"),
        ("𝐬𝐲𝐬𝐭𝐞𝐦", "system"),
    ],
)
def test_tricks_of_spelling_are_folded(words: str, seen: str) -> None:
    assert fold(words) == seen


def test_the_dearest_pattern_over_the_longest_words_is_bounded() -> None:
    worst = "(a|b)*a(a|b){300}c"
    test = compile_predicate(Predicate(USER_TEXT, "matches", worst))
    words = visible(("ab" * 500_000,))
    began = time.thread_time()
    test(words)
    assert time.thread_time() - began < 10, "what is not bounded takes minutes; machines differ"


def test_predicates_have_one_name_in_every_ruleset() -> None:
    """Old records name predicates by it: this must never become another."""
    secret = Predicate(USER_TEXT, "contains", "secret")
    assert secret.id == "p1c7b4807a962"
    others = (Predicate(USER_TEXT, "matches", "secret"), Predicate("client.ip", "contains", "secret"),
              Predicate(USER_TEXT, "contains", "secret2"))  # fmt: skip
    assert len({secret.id, *(other.id for other in others)}) == 4


def test_every_variable_reads_its_own_fact() -> None:
    known = Facts(
        principal=PrincipalFacts(id="i", org="o", project="j", plan="l", age_days=1, scopes=("s",), tags=("t",),
                                 state="watch", score=0.1, cluster="c"),
        request=RequestFacts(endpoint="completions", model="m", stream=True, n=2, max_tokens=3, prompt_tokens=4,
                             messages=5, text_length=6),
        client=ClientFacts(ip="ip", network="n", country="JP", asn=7, user_agent="u"),
        signals=SignalFacts(credential=0.2, volume=0.3, probe=0.4, privilege=0.5, content=0.6, tripwire=0.7),
        surge=SurgeFacts(overall="crowd", region="attack", endpoint="crowd", plan="attack"),
        now=NowFacts(unix=8, hour=9, minute=10, weekday=5),
    )  # fmt: skip
    for name, variable in VARIABLES.items():
        value = variable.of(known)
        assert value != variable.of(Facts()), name
        literal = str(value).lower()
        if isinstance(value, str):
            literal = f'"{value}"'
        elif isinstance(value, tuple):
            literal = f'["{value[0]}"]'
        assert Matcher([read_condition(f"{name} == {literal}")]).match(known, answers(known, [])).yes == 1, name
