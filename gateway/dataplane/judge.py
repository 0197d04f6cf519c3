"""The pipeline's judgement: facts in, a decision out, and what of it is done at once."""

import msgspec

from gateway.core.decision import Refusal
from gateway.core.errors import Refused
from gateway.core.facts import Roll
from gateway.dataplane.call import Call
from gateway.dataplane.facts import facts_of
from gateway.dataplane.services import Services
from gateway.policy.decide import decide
from gateway.policy.record import record_of
from gateway.policy.rollout import subject_roll


def judge(services: Services, call: Call) -> None:
    """Decide on an admitted call, and keep what was decided and on what. Raises Refused where a policy refuses it."""
    inforce = services.policies
    facts = facts_of(call, services.trusted_proxies, containment=inforce.containment)
    roll = Roll(subject_roll(services.secrets.rollout, facts), services.dice.getrandbits(64))
    decision = decide(facts, inforce.ruleset, roll)
    call.decision, call.record = decision, record_of(facts, roll, decision)
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
