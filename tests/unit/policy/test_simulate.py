"""Simulation of much traffic: what is remembered to make it fast changes nothing of what it says."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.facts import Roll
from gateway.core.record import Record
from gateway.policy import simulate as room
from gateway.policy.decide import decide
from gateway.policy.matcher import Matcher
from gateway.policy.record import REMEMBERED, Opening, Stored, decode, encode, record_of
from gateway.policy.replay import replay
from gateway.policy.ruleset import Ruleset
from gateway.policy.simulate import Simulator, simulate
from tests.unit.policy.test_record import OTHER, SECRET, rulesets
from tests.unit.policy.writing import CAT, facts, policy, ruleset

STORED = msgspec.json.Decoder(Stored).decode
WORDS = st.sampled_from(["a secret", "another", "a secret and other", "hi"])


@settings(max_examples=40, deadline=None)
@given(rulesets(), rulesets(), st.lists(WORDS, min_size=2, max_size=8))
def test_a_ruleset_that_has_replayed_much_says_the_same_as_one_that_has_replayed_nothing(
    then: Ruleset, now: Ruleset, said: list[str]
) -> None:
    records = []
    for number, words in enumerate(said):
        known, roll = facts(words, state="contained" if number % 2 else "normal"), Roll(number, number)
        records.append(record_of(known, roll, decide(known, then, roll), f"req_{number}"))
    fresh = [replay(each, now._replace(matcher=Matcher([rule.condition for rule in now.rules]))) for each in records]
    assert [replay(each, now) for each in records + records] == fresh + fresh


def test_a_stored_record_is_opened_as_it_was_written_and_named_where_it_has_no_name() -> None:
    rules, opening = ruleset(policy(SECRET), policy(OTHER, name="q")), Opening()
    for words in ("a secret", "hi", "a secret"):
        known = facts(words)
        kept = encode(record_of(known, Roll(1, 2), decide(known, rules, Roll(1, 2))))
        assert opening.open(STORED(kept), "req_1") == msgspec.structs.replace(decode(kept), request="req_1")
    bare = encode(Record(facts=facts(), roll=Roll(), ruleset="r"))
    assert opening.open(STORED(bare)) == decode(bare)


def test_answers_that_are_all_different_fill_no_memory() -> None:
    opening = Opening()
    for number in range(REMEMBERED + 10):
        bare = encode(Record(facts=facts(), roll=Roll(), ruleset="r", answers={f"p{number}": True}))
        assert opening.open(STORED(bare)).answers == {f"p{number}": True}
    assert len(opening._known) <= REMEMBERED


def test_traffic_taken_in_parts_is_told_as_traffic_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_MASKS", 1)
    then = ruleset(policy(SECRET, name="a"))
    rules = ruleset(policy(OTHER, CAT, name="b"), policy(f"request.n > 1 && {OTHER}", name="c", mode="log"))
    records = []
    for number in range(6):
        known = facts("secret")
        known = msgspec.structs.replace(known, request=msgspec.structs.replace(known.request, n=1 + number % 2))
        records.append(record_of(known, Roll(), decide(known, then, Roll()), f"req_{number}"))
    simulator = Simulator(rules)
    for record in records:
        simulator.take([record])
    whole = simulate(records, rules)
    assert simulator.told() == simulator.told() == whole
    assert [rule.unknown for rule in whole.rules] == [6, 3]


def test_requests_without_a_record_count_as_undecided() -> None:
    simulator = Simulator(ruleset(policy("request.n > 1", CAT)))
    assert simulator.told().undecided_percent == 0
    simulator.take([Record(facts=facts(), roll=Roll(), ruleset="r")] * 3)
    simulator.pass_over()
    told = simulator.told()
    assert (told.requests, told.undecided, told.unrecorded, told.undecided_percent) == (4, 1, 1, 25.0)
