"""decide: facts in, a decision out. The dry run, replay and the tests decide at once; the live path takes the same
steps one by one (`case_of`, `contained`, `decided`), since for who is contained the last of them can wait.

Rules go by priority, the highest first, then by id.

- The first terminal action wins: `deny`, or `throttle` where the dice say so. Rules after it have no effect, and what
  those before it would have changed is dropped, since nothing is served; their flags stay.
- Other actions add up. Edits and flags in the order of the rules, each once; the lowest cap; the first shadow; the
  first slowness.
- A principal on the never-contain list is not contained, nor is anybody while containment is switched off: no rule that
  contains has any effect then.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from gateway.core.decision import Actions, Decision, Held, Refusal
from gateway.core.facts import Facts, Roll
from gateway.policy.loader import Policy
from gateway.policy.rollout import chosen
from gateway.policy.ruleset import AS_USUAL, Ruleset
from gateway.policy.text import Answers

REMEMBERED = 1024


class Unrecorded(LookupError):
    """A rule asks of a recorded request what was not asked when it was decided; the rule's id."""


class Case(NamedTuple):
    """What is to be decided. `answers` to what is asked about its words are found once, and `candidates` are the rules
    that its facts do not rule out at once."""

    facts: Facts
    ruleset: Ruleset
    roll: Roll
    answers: Answers
    candidates: int


def decide(facts: Facts, ruleset: Ruleset, roll: Roll) -> Decision:
    """What to make of a request. Never raises."""
    return decided(case_of(facts, ruleset, roll))


def case_of(facts: Facts, ruleset: Ruleset, roll: Roll, recorded: Mapping[str, bool] | None = None) -> Case:
    """A request's case; `recorded`: the answers about its words, where these are gone."""
    answers = Answers(facts, ruleset.tests, recorded, ruleset.screen)
    return Case(facts, ruleset, roll, answers, ruleset.matcher.candidates(facts))


def acting(case: Case) -> Decision:
    """The decision before the rules are asked that only note something: its actions but for their flags. Never
    raises."""
    facts, ruleset, roll, answers, candidates = case
    found = ruleset.matcher.match(facts, answers, candidates & ruleset.acting)
    if not (found.yes or found.failed):
        return ruleset.as_usual
    return _composed(facts, ruleset, roll, found.yes, found.failed)


def contained(case: Case) -> Decision | None:
    """`acting` for a request that is contained; None where it is not."""
    if not case.candidates & case.ruleset.containing:
        return None
    decision = acting(case)
    return decision if decision.actions.contains else None


def searches(case: Case) -> bool:
    """Whether the screen alone, without folding, can say that there is nothing in the words that is asked about."""
    return case.candidates & case.ruleset.asking != 0 and case.ruleset.screened and case.answers.ascii()


def brief(case: Case) -> bool:
    """Whether the rest of the decision asks nothing about the words that is dear to ask: nothing at all, or the screen
    says that there is nothing."""
    return not case.candidates & case.ruleset.asking or (searches(case) and case.answers.screened())


def decided(case: Case) -> Decision:
    """The whole decision. Raises Unrecorded where an answer is missing from the record."""
    facts, ruleset, roll, answers, candidates = case
    found = ruleset.matcher.match(facts, answers, candidates)
    if found.unknown:
        raise Unrecorded(next(_at(ruleset.rules, found.unknown)).id)
    if not (found.yes or found.failed):
        decision = ruleset.as_usual
    else:
        decision = _composed(facts, ruleset, roll, found.yes, found.failed)
    given = answers.given
    return msgspec.structs.replace(decision, answers=given) if given else decision


def _composed(facts: Facts, ruleset: Ruleset, roll: Roll, yes: int, failed: int) -> Decision:
    """`compose` without answers; remembered where nothing but this can make it another one."""
    key = yes, failed, facts.containment, facts.never_contain
    known = ruleset.composed.get(key)
    if known is None:
        known = compose(facts, ruleset, roll, yes, failed, {})
        if all(steady(policy) for policy in _at(ruleset.rules, yes)):
            if len(ruleset.composed) >= REMEMBERED:
                ruleset.composed.clear()
            ruleset.composed[key] = known
    return known


def steady(policy: Policy) -> bool:
    """Whether neither time nor chance has a say in what it does."""
    return policy.throttle is None and policy.times.always and policy.file.spec.rollout.percent >= 100


def compose(facts: Facts, ruleset: Ruleset, roll: Roll, yes: int, failed: int, answers: dict[str, bool]) -> Decision:
    """The decision, given whose conditions hold and whose failed."""
    matched: list[Policy] = []
    logged: list[str] = []
    held: list[tuple[str, Held]] = []
    refusal: Refusal | None = None
    for policy in _at(ruleset.rules, yes):
        why = holds_back(policy, facts, roll)
        if why is None and policy.file.spec.mode == "log":
            logged.append(policy.id)
        elif why is not None or refusal is not None:
            held.append((policy.id, why or "after_terminal"))
        else:
            matched.append(policy)
            refusal = _refusal(policy, roll)
    return Decision(
        ruleset=ruleset.version,
        reason=_reason(matched, logged, held, refusal),
        actions=_together(matched, refusal),
        matched=tuple(policy.id for policy in matched),
        logged=tuple(logged),
        held=tuple(held),
        failed=tuple(policy.id for policy in _at(ruleset.rules, failed)),
        answers=answers,
    )


def holds_back(policy: Policy, facts: Facts, roll: Roll) -> Held | None:
    """What keeps a rule whose condition holds from having an effect."""
    if policy.contains:
        if not facts.containment:
            return "switched_off"
        if facts.never_contain:
            return "never_contain"
    if not policy.times.hold(facts.now):
        return "schedule"
    return None if chosen(roll.subject, policy.id, policy.file.spec.rollout.percent) else "rollout"


def _refusal(policy: Policy, roll: Roll) -> Refusal | None:
    if policy.throttle is not None and chosen(roll.request, policy.id, policy.throttle.percent):
        return policy.throttle.refusal
    return policy.actions.refusal


def _together(matched: list[Policy], refusal: Refusal | None) -> Actions:
    wanted = [policy.actions for policy in matched]
    flags = tuple(dict.fromkeys(flag for actions in wanted for flag in actions.flags))
    if refusal is not None:
        return Actions(refusal=refusal, flags=flags)
    return Actions(
        edits=tuple(dict.fromkeys(edit for actions in wanted for edit in actions.edits)),
        canary=any(actions.canary for actions in wanted),
        shadow=next((actions.shadow for actions in wanted if actions.shadow is not None), None),
        slow=next((actions.slow for actions in wanted if actions.slow is not None), None),
        max_tokens=min((actions.max_tokens for actions in wanted if actions.max_tokens is not None), default=None),
        flags=flags,
    )


def _reason(matched: list[Policy], logged: list[str], held: list[tuple[str, Held]], refusal: Refusal | None) -> str:
    """One sentence for an operator."""
    if refusal is not None:
        return f"refused by {matched[-1].id}"
    if matched:
        containing = any(policy.contains for policy in matched)
        return f"{'contained' if containing else 'changed'} by {', '.join(policy.id for policy in matched)}"
    if held:
        return "held back: " + ", ".join(f"{policy} by {why.replace('_', ' ')}" for policy, why in held)
    return f"only logged: {', '.join(logged)}" if logged else AS_USUAL


def _at(rules: tuple[Policy, ...], bits: int) -> Iterator[Policy]:
    """The rules whose bits are set, in their order."""
    while bits:
        lowest = bits & -bits
        yield rules[lowest.bit_length() - 1]
        bits ^= lowest
