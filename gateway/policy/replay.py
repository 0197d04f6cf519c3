"""replay: what another ruleset would have made of a recorded request. Yes, no, or cannot decide.

Words are not recorded, only answers to what was asked then. Where the other ruleset asks something else, a rule may
hang on it; a decision is undecided only if such a rule could change it.
"""

from typing import NamedTuple

from gateway.core.decision import Decision
from gateway.core.record import Record
from gateway.policy.decide import compose, holds_back
from gateway.policy.ruleset import AS_USUAL, Ruleset
from gateway.policy.text import Answers


class Replayed(NamedTuple):
    """Bits by the index of the rule in `ruleset.rules`. `decision`: None where it cannot be decided."""

    yes: int
    unknown: int
    failed: int
    decision: Decision | None


def replay(record: Record, ruleset: Ruleset) -> Replayed:
    """Never raises."""
    facts = record.facts
    answers = Answers(facts, ruleset.tests, record.answers)
    found = ruleset.matcher.match(facts, answers)
    if not (found.yes or found.unknown or found.failed):
        given = answers.given
        usual = Decision(ruleset=ruleset.version, reason=AS_USUAL, answers=given) if given else ruleset.as_usual
        return Replayed(0, 0, 0, usual)
    decision = compose(facts, ruleset, record.roll, found.yes, found.failed, answers.given)
    undecided = found.unknown and _could_change(record, ruleset, found.yes, found.unknown)
    return Replayed(found.yes, found.unknown, found.failed, None if undecided else decision)


def _could_change(record: Record, ruleset: Ruleset, yes: int, unknown: int) -> bool:
    """Whether a rule that may hold has an effect if it does: it is enforced, not held back, and no refusal that is
    certain comes before it."""
    left = yes | unknown
    while left:
        bit = left & -left
        left ^= bit
        policy = ruleset.rules[bit.bit_length() - 1]
        if policy.file.spec.mode != "enforce":
            continue
        if holds_back(policy, record.facts, record.roll) is not None:
            continue
        if unknown & bit:
            return True
        refused = compose(record.facts, ruleset, record.roll, bit, 0, {}).actions.refusal
        if refused is not None:
            return False
    return False
