"""A past decision is explained again exactly from its record, which holds no word of the client; and what another
ruleset would have made of it is told as yes, no or cannot decide."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.facts import Facts, Roll
from gateway.core.record import MAX_ANSWERS, Record
from gateway.policy.decide import Unrecorded, decide
from gateway.policy.diff import diff
from gateway.policy.record import accounts, decode, encode, explain, record_of
from gateway.policy.replay import replay
from gateway.policy.ruleset import Ruleset, no_rules
from gateway.policy.simulate import SAMPLES, simulate
from gateway.workers.entries import MAX_RECORD
from tests.unit.policy.test_matcher import FACTS, FORMULAS
from tests.unit.policy.writing import CAT, facts, policy, ruleset

DENY = "{deny: {}}"
ACTIONS = st.sampled_from([CAT, DENY, "{flag: a}", "{flag: b}", "{cap: {max_tokens: 3}}", "{throttle: {percent: 50}}"])
ROLLS = st.builds(Roll, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))


@st.composite
def rulesets(draw: st.DrawFn) -> Ruleset:
    """A few rules of all kinds."""
    rules = [
        policy(
            draw(FORMULAS),
            draw(ACTIONS),
            name=f"r{number}",
            mode=draw(st.sampled_from(["enforce", "log"])),
            priority=draw(st.integers(0, 2)),
            rollout=draw(st.sampled_from(["{percent: 100}", "{percent: 50}"])),
        )
        for number in range(draw(st.integers(1, 4)))
    ]
    return ruleset(*rules)


@settings(max_examples=50, deadline=None)
@given(FACTS, rulesets(), ROLLS)
def test_from_its_record_the_same_decision_follows_again(known: Facts, rules: Ruleset, roll: Roll) -> None:
    sane = msgspec.structs.replace(known, client=msgspec.structs.replace(known.client, user_agent="curl/8"))
    sane = msgspec.structs.replace(sane, texts=(*sane.texts, "OnlyTheClientSaysThis"))
    decision = decide(sane, rules, roll)
    kept = encode(record_of(sane, roll, decision, "req_1"))
    assert b"onlytheclient" not in kept.lower()
    assert explain(decode(kept), rules) == decision
    assert replay(decode(kept), rules).decision == decision


@settings(max_examples=70, deadline=None)
@given(FACTS, rulesets(), rulesets(), ROLLS)
def test_a_replay_that_decides_decides_as_the_words_would_have(
    known: Facts, then: Ruleset, now: Ruleset, roll: Roll
) -> None:
    record = record_of(known, roll, decide(known, then, roll))
    found, truth = replay(record, now), decide(known, now, roll)
    if found.decision is not None:
        assert found.decision.actions == truth.actions
        if not found.unknown:
            assert msgspec.structs.replace(found.decision, answers={}) == msgspec.structs.replace(truth, answers={})
    names = {rule.id: index for index, rule in enumerate(now.rules)}
    holding = {*truth.matched, *truth.logged, *(name for name, _ in truth.held)}
    for name, index in names.items():
        if found.yes >> index & 1:
            assert name in holding
        if not (found.yes | found.unknown) >> index & 1:
            assert name not in holding


SECRET = 'request.user_text.contains("secret")'
OTHER = 'request.user_text.contains("other")'


def recorded(known: Facts, rules: Ruleset) -> Record:
    return record_of(known, Roll(), decide(known, rules, Roll()), "req_1")


def test_what_was_not_asked_then_cannot_be_explained_but_what_does_not_matter_can() -> None:
    then = ruleset(policy(SECRET, name="a"))
    record = recorded(facts("secret"), then)
    now = ruleset(policy(OTHER, CAT, name="b"))
    with pytest.raises(Unrecorded, match="b"):
        explain(record, now)
    assert replay(record, now).decision is None
    for indifferent in (f"request.n > 5 && {OTHER}", f"request.n == 1 || {OTHER}", f"{SECRET} || {OTHER}",
                        f"!{SECRET} && {OTHER}"):  # fmt: skip
        assert replay(record, ruleset(policy(indifferent))).decision is not None, indifferent


def test_an_open_rule_matters_only_if_it_could_change_anything() -> None:
    then = ruleset(policy(SECRET, name="a"))
    record = recorded(facts("secret"), then)
    open_ = policy(OTHER, CAT, name="open", priority=1)
    assert replay(record, ruleset(open_)).decision is None
    assert replay(record, ruleset(policy(OTHER, CAT, mode="log"))).decision is not None
    assert replay(record, ruleset(policy(OTHER, CAT, rollout="{percent: 0}"))).decision is not None
    assert replay(record, ruleset(open_, policy(SECRET, DENY, name="deny", priority=2))).decision is not None
    assert replay(record, ruleset(open_, policy(SECRET, DENY, name="deny", priority=0))).decision is None
    held = ruleset(open_, policy(SECRET, DENY, name="deny", priority=2, rollout="{percent: 0}"))
    assert replay(record, held).decision is None
    logged = ruleset(open_, policy(SECRET, DENY, name="deny", priority=2, mode="log"))
    assert replay(record, logged).decision is None
    after_cap = ruleset(open_, policy(SECRET, "{cap: {max_tokens: 3}}", name="cap", priority=2))
    assert replay(record, after_cap).decision is None


def test_a_story_is_told_rule_by_rule() -> None:
    rules = ruleset(
        policy(SECRET, CAT, name="yes", priority=9),
        policy("request.n > 5", name="no", priority=8),
        policy("1 / request.max_tokens > 0", name="failed", priority=7),
        policy("true", CAT, name="held", priority=6, rollout="{percent: 0}"),
        policy(OTHER, name="unknown", priority=5, mode="log"),
    )
    record = recorded(facts("secret"), ruleset(policy(SECRET)))
    told = [(each.id, each.mode, each.verdict, each.held) for each in accounts(record, rules)]
    assert told == [
        ("yes", "enforce", "yes", None),
        ("no", "enforce", "no", None),
        ("failed", "enforce", "failed", None),
        ("held", "enforce", "yes", "rollout"),
        ("unknown", "log", "unknown", None),
    ]
    assert accounts(record, rules)[0].condition.strip() == SECRET


def test_a_record_holds_so_many_answers_and_what_hangs_on_others_is_unknown() -> None:
    asked = [f'request.user_text.contains("word {number:03}")' for number in range(MAX_ANSWERS + 44)]
    rules = [policy(f"{one} || request.n == {number}", name=f"r{number}", priority=-number)
             for number, one in enumerate(asked)]  # fmt: skip
    known = facts("a word 002", f"a word {MAX_ANSWERS + 1}")
    decision = decide(known, ruleset(*rules), Roll())
    record = record_of(known, Roll(), decision)
    assert decision.matched == ("r1", "r2", f"r{MAX_ANSWERS + 1}")
    assert len(decision.answers) - len(record.answers) == 43
    assert len(encode(record)) < MAX_RECORD / 2
    verdicts = {told.id: told.verdict for told in accounts(record, ruleset(*rules))}
    assert set(list(verdicts.values())[:MAX_ANSWERS]) == {"no", "yes"}
    assert verdicts[f"r{MAX_ANSWERS}"] == "no"
    assert verdicts[f"r{MAX_ANSWERS + 1}"] == "unknown"
    with pytest.raises(Unrecorded):
        explain(record, ruleset(*rules))
    assert replay(record, ruleset(*rules)).decision is None
    assert replay(record, ruleset(*rules[:MAX_ANSWERS])).decision is not None


# -- simulate and diff


def traffic(rules: Ruleset) -> list[Record]:
    """Six requests of three principals."""
    found = []
    for number in range(6):
        known = facts("secret" if number % 2 else "plain", state="contained" if number % 3 == 0 else "normal")
        who = msgspec.structs.replace(known.principal, id=f"p{number % 3}")
        known = msgspec.structs.replace(known, principal=who)
        found.append(record_of(known, Roll(), decide(known, rules, Roll()), f"req_{number}"))
    return found


def test_simulation_tells_whom_each_rule_touches_what_changes_and_what_it_cannot_decide() -> None:
    today = ruleset(policy(SECRET, DENY, name="deny"))
    tomorrow = ruleset(
        policy('principal.state == "contained"', CAT, name="cat", priority=3),
        policy(SECRET, DENY, name="deny", priority=2),
        policy(OTHER, "{flag: x}", name="other", priority=1, mode="log"),
        policy("1 / request.max_tokens > 0", name="bad"),
    )
    told = simulate(traffic(today), tomorrow, today)
    cat, deny, other, bad = told.rules
    assert (cat.id, cat.yes, cat.unknown, cat.principals, cat.samples) == ("cat", 2, 0, {"p0"}, ["req_0", "req_3"])
    assert (deny.yes, deny.principals) == (3, {"p0", "p1", "p2"})
    assert (other.mode, other.yes, other.unknown) == ("log", 0, 6)
    assert bad.failed == 6
    assert (told.requests, told.same, told.changed, told.undecided, told.as_usual) == (6, 5, 1, 0, 2)
    assert [(change.request, change.principal) for change in told.changes] == [("req_0", "p0")]
    assert told.changes[0].was.edits == ()
    assert told.changes[0].would_be.edits
    enforced = ruleset(policy(OTHER, CAT, name="other"))
    assert simulate(traffic(today), enforced, today).undecided == 6
    assert simulate(traffic(today), tomorrow).not_compared == 6
    unrecorded = simulate(traffic(no_rules()), no_rules(), today)
    assert (unrecorded.not_compared, unrecorded.as_usual) == (6, 6)


def test_a_simulation_names_a_few_requests_and_not_all() -> None:
    today = ruleset(policy("true", DENY, name="deny"))
    told = simulate(traffic(today) * 3, ruleset(policy("true", CAT)), today)
    assert (told.changed, len(told.changes), len(told.rules[0].samples)) == (18, SAMPLES, SAMPLES)


def test_diff_tells_rules_parts_and_people() -> None:
    old = ruleset(policy(SECRET, DENY, name="deny"), policy("request.n > 5", name="gone"),
                  policy("request.n > 1", name="same"), policy("request.n > 1", name="spaced"))  # fmt: skip
    new = ruleset(
        policy(f'{SECRET} && principal.state == "contained"', DENY, name="deny", priority=4),
        policy('principal.state == "contained"', CAT, name="cat"),
        policy("request.n > 1", name="same"),
        policy("(request.n  >  1)", name="spaced"),
    )
    found = diff(old, new, traffic(old))
    assert (found.added, found.removed, found.requests) == (("cat",), ("gone",), 6)
    assert [(each.id, [part for part, _, _ in each.parts]) for each in found.altered] == [
        ("deny", ["priority", "match"])
    ]
    assert found.altered[0].parts[0] == ("priority", "0", "4")
    touched = {each.id: (each.gained, each.lost, each.unknown) for each in found.touched}
    assert touched == {"cat": ({"p0"}, set(), 0), "deny": (set(), {"p1", "p2"}, 0)}
    unknown = diff(old, ruleset(policy(OTHER, name="deny")), traffic(old))
    assert [(each.id, each.unknown) for each in unknown.touched] == [("deny", 6)]
    assert diff(old, old, traffic(old)) == diff(old, old)._replace(requests=6)
