"""The pipeline's judgement: facts in, a decision out, and what of it is done at once.

The decision is made while Redis is asked to admit the request (`foresee`): it needs nothing of the answer, and costs
the request no time there. Nothing comes of a decision before its request is admitted (`judge`); one that was made on
what is no longer so is made again.

A contained request is no later than others for what is done with it. Its prompt is rewritten in the time in which
others are asked about by rules that only note something; those rules are asked about it when it has been sent
(`note`). Where that leaves time over, it is waited out (usual.py).
"""

from time import perf_counter

import msgspec

from gateway.core.decision import Decision, Refusal
from gateway.core.errors import Refused
from gateway.core.facts import Roll
from gateway.dataplane import shape
from gateway.dataplane.call import Call
from gateway.dataplane.facts import facts_of
from gateway.dataplane.services import Services
from gateway.policy.decide import Case, case_of, contained, decided
from gateway.policy.record import record_of
from gateway.policy.rollout import subject_roll

TO_COME = 0.55
"""What a disguise takes until its first token is told, of what it took to make it, about (docs/proofs.md)."""


def foresee(services: Services, call: Call) -> None:
    """Decide on a call that is measured, and prepare what follows from that."""
    began = perf_counter()
    inforce = services.policies
    facts = facts_of(call, services.trusted_proxies, containment=inforce.containment)
    roll = Roll(subject_roll(services.secrets.rollout, facts), services.dice.getrandbits(64))
    call.case = case_of(facts, inforce.ruleset, roll)
    call.decision, call.record, call.foreseen = contained(call.case), None, None
    if call.decision is None:
        _decide(call, call.case)
        services.usual.hear(facts.request.text_length, perf_counter() - began)
        return
    known = perf_counter()
    call.foreseen = shape.foresee(services, call, call.decision.actions)
    if call.foreseen is None:
        _decide(call, call.case)
    else:
        to_come = TO_COME * (perf_counter() - known)
        services.usual.wait(facts.request.text_length, began - to_come)


def _decide(call: Call, case: Case) -> None:
    call.decision, call.case = decided(case), None
    call.record = record_of(case.facts, case.roll, call.decision)


def judge(services: Services, call: Call) -> None:
    """Do as was decided on a call, which is admitted now. Raises Refused where a policy refuses it."""
    assert call.decision is not None
    decision = call.decision
    if call.case is None:
        _tell(services, call, decision)
    if decision.actions.refusal is not None:
        raise refused(decision.actions.refusal, decision.matched[-1])
    most = decision.actions.max_tokens
    if most is not None and most < call.measured.max_tokens:
        call.measured = msgspec.structs.replace(call.measured, max_tokens=most)


def note(services: Services, call: Call) -> None:
    """Ask of an admitted call that is contained what was put off for that."""
    if call.case is not None:
        _decide(call, call.case)
        assert call.decision is not None
        _tell(services, call, call.decision)


def _tell(services: Services, call: Call, decision: Decision) -> None:
    assert call.record is not None
    left_out = len(decision.answers) - len(call.record.answers)
    if left_out:
        services.tally.answers_left_out(left_out)
    if decision.matched or decision.logged or decision.held or decision.failed:
        services.tally.decision(decision)


def refused(refusal: Refusal, policy: str) -> Refused:
    """What the client of a refused request reads; which policy it was, only the log does."""
    wait = refusal.retry_after_ms or None
    return Refused(refusal.message, detail=f"policy {policy}", retry_after_ms=wait).of(refusal.status, refusal.code)
