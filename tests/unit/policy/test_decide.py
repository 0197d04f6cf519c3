"""decide: the order of rules, what wins, what adds up, and what always has the last word."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.decision import Actions, Decision, Edit, Refusal, Shadow, Slow
from gateway.core.facts import Facts, NowFacts, PrincipalFacts, Roll, now_facts
from gateway.policy import decide as room
from gateway.policy.decide import acting, brief, case_of, contained, decide, decided, searches
from gateway.policy.model import CONTAINING
from gateway.policy.rollout import chosen, subject_roll
from gateway.policy.schedule import Times, unix_of
from gateway.policy.text import Answers
from tests.unit.policy.writing import CAT, FLAG, facts, policy, ruleset

ROLL = Roll(subject=1 << 63, request=1 << 62)
DENY = '{deny: {status: 403, code: no, message: "No."}}'


def test_where_no_condition_holds_everything_is_as_usual() -> None:
    rules = ruleset(policy("request.n > 5", DENY))
    decision = decide(facts(), rules, ROLL)
    assert decision == Decision(ruleset=rules.version, reason="no policy applies")
    assert not decision.actions.contains


def test_a_matching_rule_acts_and_is_named() -> None:
    rules = ruleset(policy('principal.state == "contained"', CAT, "{canary: {}}", name="cat"))
    decision = decide(facts(state="contained"), rules, ROLL)
    assert decision == Decision(
        ruleset=rules.version,
        reason="contained by cat",
        actions=Actions(edits=(Edit("prepend_system", "You are a cat."),), canary=True),
        matched=("cat",),
    )
    assert decision.actions.contains


def test_modifying_actions_add_up_in_the_order_of_the_rules() -> None:
    rules = ruleset(
        policy("true", "{cap: {max_tokens: 50}}", "{flag: b}", name="overt", priority=5),
        policy("true", "{rewrite: {append_system: second}}", "{shadow: {model: late}}", "{slow: {low: 0.1, high: 0.2}}",
               "{flag: a}", name="b", priority=1),
        policy("true", "{rewrite: {prepend_system: first}}", "{shadow: {pool: early}}", "{slow: {low: 0.3, high: 0.4}}",
               "{flag: b}", name="a", priority=1),
        policy("true", "{cap: {max_tokens: 20}}", "{flag: z}", name="z"),
        policy("true", "{cap: {max_tokens: 30}}", name="zz"),
    )  # fmt: skip
    decision = decide(facts(), rules, ROLL)
    assert decision.matched == ("overt", "a", "b", "z", "zz")
    assert decision.actions == Actions(
        edits=(Edit("prepend_system", "first"), Edit("append_system", "second")),
        shadow=Shadow(pool="early"),
        slow=Slow(0.3, 0.4),
        max_tokens=20,
        flags=("b", "a", "z"),
    )
    assert decision.reason == "contained by overt, a, b, z, zz"


def test_two_rules_that_say_the_same_sentence_say_it_once() -> None:
    rules = ruleset(policy("true", CAT, name="a"), policy("true", CAT, name="b"))
    assert decide(facts(), rules, ROLL).actions.edits == (Edit("prepend_system", "You are a cat."),)


def test_a_rule_that_only_changes_is_told_as_a_change() -> None:
    decision = decide(facts(), ruleset(policy("true", "{cap: {max_tokens: 5}}", name="short")), ROLL)
    assert decision.reason == "changed by short"
    assert decision.actions == Actions(max_tokens=5)


def test_the_first_terminal_action_wins_and_drops_what_is_no_longer_served() -> None:
    rules = ruleset(
        policy("true", CAT, "{flag: seen}", name="before", priority=9),
        policy("true", DENY, name="deny", priority=8),
        policy("true", "{deny: {status: 429, code: other, message: x}}", "{flag: late}", name="later", priority=7),
        policy("true", CAT, name="after", priority=6),
    )
    decision = decide(facts(), rules, ROLL)
    assert decision.actions == Actions(refusal=Refusal(403, "no", "No."), flags=("seen",))
    assert decision.reason == "refused by deny"
    assert decision.matched == ("before", "deny")
    assert decision.held == (("later", "after_terminal"), ("after", "after_terminal"))


def test_a_throttle_refuses_its_share_by_the_dice_of_the_request() -> None:
    rules = ruleset(
        policy("true", "{throttle: {percent: 30, retry_after_s: 4}}", name="thin"),
        policy("true", "{flag: served}", name="z"),
    )
    rolls = [Roll(request=n * 2**64 // 997) for n in range(997)]
    decisions = [decide(facts(), rules, roll) for roll in rolls]
    refused = [decision for decision in decisions if decision.actions.refusal is not None]
    assert 0.24 < len(refused) / len(rolls) < 0.36
    assert refused[0].actions.refusal == Refusal(
        429, "rate_limit_exceeded", "Rate limit reached. Try again in 4 s.", 4000
    )
    assert refused[0].held == (("z", "after_terminal"),)
    served = next(decision for decision in decisions if decision.actions.refusal is None)
    assert served.actions == Actions(flags=("served",))
    assert served.matched == ("thin", "z")
    always = ruleset(policy("true", "{throttle: {percent: 100}}"))
    assert all(decide(facts(), always, roll).actions.refusal for roll in rolls[:50])
    never = ruleset(policy("true", "{throttle: {percent: 0}}"))
    assert not any(decide(facts(), never, roll).actions.refusal for roll in rolls[:50])


def test_log_mode_is_kept_apart_and_changes_nothing() -> None:
    live = policy("true", "{cap: {max_tokens: 5}}", name="live")
    logging = (
        policy("true", DENY, name="deny", mode="log", priority=9),
        policy("true", CAT, "{canary: {}}", name="cat", mode="log", priority=-9),
    )
    with_logs, without = decide(facts(), ruleset(live, *logging), ROLL), decide(facts(), ruleset(live), ROLL)
    assert with_logs.actions == without.actions
    assert with_logs.matched == without.matched == ("live",)
    assert with_logs.logged == ("deny", "cat")
    only = decide(facts(), ruleset(*logging), ROLL)
    assert only.actions == Actions()
    assert only.reason == "only logged: deny, cat"


def test_log_mode_goes_on_after_a_refusal() -> None:
    rules = ruleset(policy("true", DENY, name="deny", priority=1), policy("true", CAT, name="cat", mode="log"))
    decision = decide(facts(), rules, ROLL)
    assert (decision.logged, decision.held) == (("cat",), ())


@pytest.mark.parametrize("kind", sorted(CONTAINING))
@pytest.mark.parametrize("mode", ["log", "enforce"])
def test_the_never_contain_list_and_the_one_switch_always_win(kind: str, mode: str) -> None:
    action = {"rewrite": CAT, "canary": "{canary: {}}", "shadow": "{shadow: {model: m}}", "slow": "{slow: {}}"}[kind]
    rules = ruleset(
        policy("true", action, "{flag: seen}", name="contains", mode=mode, priority=9),
        policy("true", "{cap: {max_tokens: 5}}", "{flag: overt}", name="cap"),
        policy("true", "{flag: quiet}", name="flag"),
    )
    for known, why in (
        (msgspec.structs.replace(facts(), never_contain=True), "never_contain"),
        (msgspec.structs.replace(facts(), containment=False), "switched_off"),
        (msgspec.structs.replace(facts(), containment=False, never_contain=True), "switched_off"),
    ):
        decision = decide(known, rules, ROLL)
        assert not decision.actions.contains
        assert decision.held == (("contains", why),)
        assert decision.actions == Actions(max_tokens=5, flags=("overt", "quiet"))
        assert decision.logged == ()
        assert decision.reason == "changed by cap, flag"


def test_what_is_held_back_says_by_what() -> None:
    rules = ruleset(
        policy("true", CAT, name="a", rollout="{percent: 0}"),
        policy("true", CAT, name="b", schedule="{until: 2026-01-01T00:00Z}"),
    )
    decision = decide(msgspec.structs.replace(facts(), now=now_facts(unix_of("2026-06-01T00:00Z") * 1000)), rules, ROLL)
    assert decision.held == (("a", "rollout"), ("b", "schedule"))
    assert decision.reason == "held back: a by rollout, b by schedule"
    assert decision.actions == Actions()


def test_a_condition_that_fails_does_not_hold_and_is_told() -> None:
    rules = ruleset(policy("1 / request.max_tokens > 0", DENY, name="bad"), policy("true", name="good"))
    decision = decide(facts(), rules, ROLL)
    assert decision.failed == ("bad",)
    assert decision.matched == ("good",)
    alone = decide(facts(), ruleset(policy("1 / request.max_tokens > 0", DENY, name="bad")), ROLL)
    assert alone.failed == ("bad",)
    assert alone.reason == "no policy applies"
    assert alone.actions == Actions()


def test_what_was_asked_of_the_words_is_in_the_decision_even_when_nothing_matches() -> None:
    rules = ruleset(policy('request.user_text.contains("cat")'))
    decision = decide(facts("dogs"), rules, ROLL)
    assert list(decision.answers.values()) == [False]
    assert list(decide(facts("cats"), rules, ROLL).answers.values()) == [True]
    assert "cats" not in str(decide(facts("cats"), rules, ROLL))


# -- rollout


def test_a_rollout_takes_its_share_and_who_is_in_stays_in_when_it_grows() -> None:
    subjects = [subject_roll(b"key", Facts(principal=PrincipalFacts(id=f"p{n}"))) for n in range(2000)]
    for percent in (0.5, 10, 50, 99.5):
        share = sum(chosen(subject, "policy", percent) for subject in subjects) / len(subjects)
        assert abs(share - percent / 100) < 0.035
    assert not any(chosen(subject, "policy", 0) for subject in subjects)
    assert all(chosen(subject, "policy", 100) for subject in subjects)
    small = {subject for subject in subjects if chosen(subject, "policy", 20)}
    assert small <= {subject for subject in subjects if chosen(subject, "policy", 40)}
    other = {subject for subject in subjects if chosen(subject, "another", 20)}
    assert len(small & other) < 0.5 * len(small)  # another policy begins with others


def test_the_accounts_of_one_cluster_are_treated_alike_and_nobody_can_tell_without_the_key() -> None:
    def of(name: str, cluster: str = "", key: bytes = b"key") -> int:
        return subject_roll(key, Facts(principal=PrincipalFacts(id=name, cluster=cluster)))

    assert of("a", "ring") == of("b", "ring") != of("a")
    assert of("a") == of("a") != of("b")
    assert of("a") != of("a", key=b"other")
    assert of("ring") != of("x", "ring")


def test_a_rollout_depends_on_the_subject_alone_not_on_the_request() -> None:
    rules = ruleset(policy("true", CAT, rollout="{percent: 50}"))
    for subject in range(0, 2**64, 2**64 // 40):
        kept = {bool(decide(facts(), rules, Roll(subject, n * 2**58)).matched) for n in range(8)}
        assert len(kept) == 1


# -- schedule


def at(moment: str) -> NowFacts:
    return now_facts(unix_of(moment) * 1000)


@pytest.mark.parametrize(
    ("schedule", "moment", "holds"),
    [
        ("{from: 2026-03-01T10:00Z}", "2026-03-01T09:59:59Z", False),
        ("{from: 2026-03-01T10:00Z}", "2026-03-01T10:00:00Z", True),
        ("{until: 2026-03-01T10:00Z}", "2026-03-01T09:59:59Z", True),
        ("{until: 2026-03-01T10:00Z}", "2026-03-01T10:00:00Z", False),
        ("{windows: [{from: '09:00', to: '17:00'}]}", "2026-03-02T09:00Z", True),
        ("{windows: [{from: '09:00', to: '17:00'}]}", "2026-03-02T16:59:59Z", True),
        ("{windows: [{from: '09:00', to: '17:00'}]}", "2026-03-02T17:00Z", False),
        ("{windows: [{from: '09:30', to: '17:00'}]}", "2026-03-02T09:29Z", False),
        ("{windows: [{days: [mon], from: '09:00', to: '17:00'}]}", "2026-03-02T12:00Z", True),  # a Monday
        ("{windows: [{days: [tue, sun], from: '09:00', to: '17:00'}]}", "2026-03-02T12:00Z", False),
        ("{windows: [{days: [sun], from: '22:00', to: '06:00'}]}", "2026-03-01T22:00Z", True),
        ("{windows: [{days: [sun], from: '22:00', to: '06:00'}]}", "2026-03-02T05:59Z", True),
        ("{windows: [{days: [sun], from: '22:00', to: '06:00'}]}", "2026-03-02T06:00Z", False),
        ("{windows: [{days: [sun], from: '22:00', to: '06:00'}]}", "2026-03-02T22:00Z", False),
        ("{windows: [{days: [sun], from: '22:00', to: '06:00'}]}", "2026-03-01T05:00Z", False),
        ("{windows: [{days: [mon], from: '00:00', to: '00:00'}]}", "2026-03-02T13:00Z", True),
        ("{windows: [{from: '01:00', to: '02:00'}, {from: '03:00', to: '04:00'}]}", "2026-03-02T03:30Z", True),
        ("{from: 2026-03-01T00:00Z, windows: [{from: '01:00', to: '02:00'}]}", "2026-02-01T01:30Z", False),
    ],
)  # fmt: skip
def test_a_schedule_holds_in_its_time(schedule: str, moment: str, holds: bool) -> None:
    times = policy("true", schedule=schedule).times
    assert times.hold(at(moment)) is holds
    assert not times.always
    rules = ruleset(policy("true", schedule=schedule))
    known = msgspec.structs.replace(facts(), now=at(moment))
    assert bool(decide(known, rules, ROLL).matched) is holds


def test_without_a_schedule_it_is_always_time() -> None:
    assert policy("true").times == Times(None, None, ())
    assert policy("true").times.always


@pytest.mark.parametrize(
    ("moment", "unix"),
    [
        ("1970-01-01T00:00Z", 0),
        ("1969-12-31T23:59:59Z", -1),
        ("2000-02-29T12:00:00Z", 951_825_600),
        ("2026-11-22T10:00Z", 1_795_341_600),
        ("2100-03-01T00:00Z", 4_107_542_400),
    ],
)
def test_moments_are_counted_by_the_civil_calendar(moment: str, unix: int) -> None:
    assert unix_of(moment) == unix


@pytest.mark.parametrize(
    "moment",
    ["2026-02-29T00:00Z", "2100-02-29T00:00Z", "2026-13-01T00:00Z", "2026-00-01T00:00Z", "2026-04-31T00:00Z",
     "2026-01-00T00:00Z", "2026-01-01T24:00Z", "2026-01-01T00:60Z", "2026-01-01T00:00:60Z"],
)  # fmt: skip
def test_there_is_no_such_moment(moment: str) -> None:
    with pytest.raises(ValueError, match=moment):
        unix_of(moment)


@pytest.mark.parametrize(
    ("moment", "weekday", "hour", "minute"),
    [("1970-01-01T00:00Z", 4, 0, 0), ("2026-03-01T23:59Z", 7, 23, 59), ("2026-03-02T07:05:59Z", 1, 7, 5)],
)
def test_the_facts_of_a_moment(moment: str, weekday: int, hour: int, minute: int) -> None:
    assert at(moment) == NowFacts(unix=unix_of(moment), hour=hour, minute=minute, weekday=weekday)


@given(st.lists(st.sampled_from([CAT, DENY, FLAG, "{cap: {max_tokens: 5}}", "{throttle: {percent: 40}}"]), max_size=6),
       st.lists(st.sampled_from(["enforce", "log"]), min_size=6, max_size=6), st.integers(0, 2**64 - 1))  # fmt: skip
def test_every_rule_whose_condition_holds_is_accounted_for_once(
    actions: list[str], modes: list[str], dice: int
) -> None:
    rules = [policy("true", action, name=f"r{n}", mode=modes[n]) for n, action in enumerate(actions)]
    rules.append(policy("request.n > 5", name="other"))
    decision: Any = decide(facts(), ruleset(*rules), Roll(request=dice))
    told = [*decision.matched, *decision.logged, *(name for name, _ in decision.held)]
    assert sorted(told) == [f"r{n}" for n in range(len(actions))]
    assert not any(name.startswith("o") for name in told)


MIXED = (
    policy('principal.state == "contained"', CAT, name="cat"),
    policy('principal.plan == "pro"', "{throttle: {percent: 50, retry_after_s: 1}}", name="often"),
    policy('principal.plan == "half"', CAT, name="half", rollout="{percent: 50}"),
    policy('principal.plan == "night"', FLAG, name="night", schedule="{until: 1971-01-01T00:00Z}"),
    policy("request.messages > 0", FLAG, name="said"),
)
ASKED = st.tuples(
    st.sampled_from(["contained", "normal"]),
    st.sampled_from(["free", "pro", "half", "night"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 10**12]),
    st.integers(0, 2**64 - 1),
)


@given(st.lists(ASKED, max_size=12))
def test_what_was_decided_before_changes_no_decision(asked: list[tuple[Any, ...]]) -> None:
    """Decisions are remembered where nothing but which rules hold can matter."""
    used = ruleset(*MIXED)
    for state, plan, never, containment, unix_ms, chance in asked:
        known = msgspec.structs.replace(
            facts(state=state, plan=plan), never_contain=never, containment=containment, now=now_facts(unix_ms)
        )
        roll = Roll(subject=chance, request=chance)
        assert decide(known, used, roll) == decide(known, used._replace(composed={}), roll)


@given(st.lists(st.tuples(st.sampled_from(['principal.state == "contained"', "true", "request.n > 5"]),
                          st.sampled_from([CAT, DENY, FLAG, "{cap: {max_tokens: 5}}", "{throttle: {percent: 40}}",
                                           "{slow: {low: 0.1, high: 0.2}}", "{canary: {}}"]),
                          st.booleans(), st.sampled_from(["enforce", "log"])), max_size=6),
       st.sampled_from(["contained", "normal"]), st.booleans(), st.integers(0, 2**64 - 1))  # fmt: skip
def test_what_is_done_with_who_is_contained_is_known_before_rules_are_asked_that_only_note_something(
    asked: list[tuple[str, str, bool, str]], state: str, never: bool, dice: int
) -> None:
    rules = [
        policy(match, action, *(["{flag: noted}"] if flagged and action != FLAG else []), name=f"r{n}", mode=mode)
        for n, (match, action, flagged, mode) in enumerate(asked)
    ]
    used = ruleset(*rules, policy("request.n > 5", name="other"))
    known, roll = msgspec.structs.replace(facts(state=state), never_contain=never), Roll(request=dice)
    case, whole = case_of(known, used, roll), decide(known, used, roll)
    early = acting(case)
    assert msgspec.structs.replace(early.actions, flags=whole.actions.flags) == whole.actions
    assert set(early.matched) <= set(whole.matched)
    assert contained(case) == (early if whole.actions.contains else None)


def test_rules_that_only_note_something_are_not_asked_before_who_is_contained_is_known() -> None:
    asking = 'request.user_text.contains("cat")'
    used = ruleset(
        policy('principal.state == "contained"', CAT, name="cat"),
        policy(asking, "{flag: a}", name="flag"),
        policy(asking, CAT, name="tried", mode="log"),
    )
    case = case_of(facts("a cat", state="contained"), used, ROLL)
    early = contained(case)
    assert early is not None
    assert (early.matched, case.answers.given) == (("cat",), {})
    whole = decided(case)
    assert (whole.matched, whole.logged, list(whole.answers.values())) == (("cat", "flag"), ("tried",), [True])


@pytest.mark.parametrize(
    ("words", "asking", "screened", "short"),
    [
        ("how do I bake bread", 'request.user_text.contains("cat")', True, True),
        ("how do I bake a cat", 'request.user_text.contains("cat")', True, False),
        ("wie bäckt man Brot", 'request.user_text.contains("cat")', False, False),
        ("how do I bake bread", 'request.user_text.matches("^cat")', False, False),
        ("how do I bake bread", 'principal.plan == "pro" && request.user_text.matches("^cat")', False, True),
        ("how do I bake a cat", 'principal.plan == "pro" && request.user_text.contains("cat")', False, True),
        ("how do I bake a cat", "request.messages > 0", False, True),
    ],
)
def test_what_is_asked_about_words_is_asked_at_once_only_where_a_screen_says_that_there_is_nothing(
    words: str, asking: str, screened: bool, short: bool
) -> None:
    used = ruleset(policy('principal.state == "contained"', CAT, name="cat"), policy(asking, FLAG, name="flag"))
    case = case_of(facts(words), used, ROLL)
    assert searches(case) == screened
    assert brief(case) == short
    assert acting(case) == used.as_usual
    assert decided(case) == decide(facts(words), used, ROLL)


def test_no_words_are_folded_before_it_is_known_that_something_is_asked_about_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Answers, "_folded", lambda answers: pytest.fail("folded"))
    used = ruleset(policy('request.user_text.contains("cat")', FLAG, name="flag"))
    assert not brief(case_of(facts("wie bäckt man Brot"), used, ROLL))
    assert not brief(case_of(facts("a cat"), used, ROLL))
    assert brief(case_of(facts("bread"), used, ROLL))


def test_who_is_in_a_rollout_is_asked_every_time() -> None:
    used = ruleset(*MIXED)
    known = facts(plan="half")
    inside = [decide(known, used, Roll(subject=subject, request=0)).matched == ("half",) for subject in range(40)]
    assert inside == [chosen(subject, "half", 50) for subject in range(40)]
    assert len(set(inside)) == 2


def test_the_dice_of_a_throttle_are_thrown_every_time() -> None:
    used = ruleset(policy("true", "{throttle: {percent: 50, retry_after_s: 1}}"))
    refused = [decide(facts(), used, Roll(0, chance)).actions.refusal is not None for chance in range(40)]
    assert refused == [chosen(chance, "p", 50) for chance in range(40)]
    assert len(set(refused)) == 2
    assert not used.composed


def test_a_schedule_is_asked_every_time() -> None:
    used = ruleset(policy("true", schedule="{until: 1971-01-01T00:00Z}"))
    early, late = facts(), msgspec.structs.replace(facts(), now=now_facts(10**12))
    assert [decide(each, used, ROLL).matched for each in (early, late, early)] == [("p",), (), ("p",)]
    assert not used.composed


def test_what_hangs_on_neither_time_nor_chance_is_composed_once_and_only_so_much_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = ruleset(
        policy('principal.state == "contained"', CAT, name="a"), policy('principal.plan == "pro"', FLAG, name="b")
    )
    asked = [facts(state="contained"), facts(plan="pro"), facts(state="contained", plan="pro")]
    first = [decide(each, used, ROLL) for each in asked]
    assert all(decide(each, used, ROLL) is one for each, one in zip(asked, first, strict=True)), "the same objects"
    assert len(used.composed) == 3
    monkeypatch.setattr(room, "REMEMBERED", 3)
    decide(msgspec.structs.replace(asked[0], never_contain=True), used, ROLL)
    assert len(used.composed) == 1, "the others have made room"
