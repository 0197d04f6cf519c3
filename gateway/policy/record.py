"""Records: made of decisions, and decisions made of them again."""

from itertools import islice
from typing import Literal, NamedTuple

import msgspec

from gateway.core.decision import Decision, Held
from gateway.core.facts import Facts, Roll
from gateway.core.record import MAX_ANSWERS, Record
from gateway.policy.decide import case_of, decided, holds_back
from gateway.policy.ruleset import Ruleset
from gateway.policy.text import Answers

Verdict = Literal["yes", "no", "unknown", "failed"]


REMEMBERED = 1024

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Record).decode


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A record as JSON has it, its answers not decoded."""

    v: int = 1
    request: str = ""
    facts: Facts
    roll: Roll
    ruleset: str
    answers: msgspec.Raw = msgspec.Raw(b"{}")


class Opening:
    """Makes records of stored ones, by the hundred thousand: most give the same answers, which are decoded once."""

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(dict[str, bool]).decode
        self._known: dict[bytes, dict[str, bool]] = {}

    def open(self, stored: Stored, request: str = "") -> Record:
        """`request`: its id, where the record itself says none. Raises msgspec.MsgspecError."""
        raw = bytes(stored.answers)
        answers = self._known.get(raw)
        if answers is None:
            answers = self._decode(raw)
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known[raw] = answers
        return Record(
            v=stored.v,
            request=stored.request or request,
            facts=stored.facts,
            roll=stored.roll,
            ruleset=stored.ruleset,
            answers=answers,
        )


class Account(NamedTuple):
    """One rule in the story of a decision: whether its condition held, and what kept it from having an effect."""

    id: str
    mode: str
    verdict: Verdict
    held: Held | None
    condition: str


def record_of(facts: Facts, roll: Roll, decision: Decision, request: str = "") -> Record:
    """What to keep of a decision on `facts`: at most MAX_ANSWERS of its answers."""
    bare, answers = msgspec.structs.replace(facts, texts=()), decision.answers
    if len(answers) > MAX_ANSWERS:
        answers = dict(islice(answers.items(), MAX_ANSWERS))
    return Record(request=request, facts=bare, roll=roll, ruleset=decision.ruleset, answers=answers)


def explain(record: Record, ruleset: Ruleset) -> Decision:
    """The decision that was made. Raises Unrecorded where `ruleset` asks what was not asked then (another version), or
    what was left out of the record."""
    return decided(case_of(record.facts, ruleset, record.roll, record.answers))


def accounts(record: Record, ruleset: Ruleset) -> tuple[Account, ...]:
    """Rule by rule, in their order. `unknown`: it hangs on words that were not kept."""
    found = ruleset.matcher.match(record.facts, Answers(record.facts, ruleset.tests, record.answers))
    told = []
    for index, policy in enumerate(ruleset.rules):
        bit = 1 << index
        verdict: Verdict = "no"
        if found.failed & bit:
            verdict = "failed"
        elif found.yes & bit:
            verdict = "yes"
        elif found.unknown & bit:
            verdict = "unknown"
        held = holds_back(policy, record.facts, record.roll) if verdict in ("yes", "unknown") else None
        told.append(Account(policy.id, policy.file.spec.mode, verdict, held, policy.file.spec.match))
    return tuple(told)
