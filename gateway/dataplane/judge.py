"""The pipeline's judgement: facts in, a decision out, and what of it is done at once.

The decision is made while Redis is asked to admit the request (`foresee`): it needs nothing of the answer, and costs
the request no time there. Above all, what is done more for a contained request is done then, so that it is no later
than others. Nothing comes of a decision before its request is admitted (`judge`); one that was made on what is no
longer so is made again.
"""

import msgspec

from gateway.core.decision import Refusal
from gateway.core.errors import Refused
from gateway.core.facts import Roll
from gateway.dataplane import shape
from gateway.dataplane.call import Call
from gateway.dataplane.facts import facts_of
from gateway.dataplane.services import Services
from gateway.policy.decide import decide
from gateway.policy.record import record_of
from gateway.policy.rollout import subject_roll


def foresee(services: Services, call: Call) -> None:
    """Decide on a call that is measured, and prepare what follows from that."""
    inforce = services.policies
    facts = facts_of(call, services.trusted_proxies, containment=inforce.containment)
    roll = Roll(subject_roll(services.secrets.rollout, facts), services.dice.getrandbits(64))
    call.decision, call.foreseen = decide(facts, inforce.ruleset, roll), None
    call.record = record_of(facts, roll, call.decision)
    if call.decision.actions.contains:
        shape.foresee(services, call)


def judge(services: Services, call: Call) -> None:
    """Do as was decided on a call, which is admitted now. Raises Refused where a policy refuses it."""
    assert call.decision is not None and call.record is not None
    decision = call.decision
    left_out = len(decision.answers) - len(call.record.answers)
    if left_out:
        services.tally.answers_left_out(left_out)
    if not (decision.matched or decision.logged or decision.held or decision.failed):
        return
    services.tally.decision(decision)
    if decision.actions.refusal is not None:
        raise refused(decision.actions.refusal, decision.matched[-1])
    most = decision.actions.max_tokens
    if most is not None and most < call.measured.max_tokens:
        call.measured = msgspec.structs.replace(call.measured, max_tokens=most)


def refused(refusal: Refusal, policy: str) -> Refused:
    """What the client of a refused request reads; which policy it was, only the log does."""
    wait = refusal.retry_after_ms or None
    return Refused(refusal.message, detail=f"policy {policy}", retry_after_ms=wait).of(refusal.status, refusal.code)
