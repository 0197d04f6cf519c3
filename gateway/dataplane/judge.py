"""The pipeline's judgement: facts in, a decision out, and what of it is done at once.

The decision is made while Redis is asked to admit the request (`foresee`): it needs nothing of the answer, and costs
the request no time there. Nothing comes of a decision before its request is admitted (`judge`); one that was made on
what is no longer so is made again.

Rules that only note something ask about a request's words before it is sent only where the screen finds nothing, which
is soon said; else a moment after it has been sent (`note`), whoever it is from. Asking may take milliseconds, and
its own request mostly does not wait for them. About a contained request such rules always ask then: in the time in
which others are screened its prompt is rewritten. Whatever is sent sooner for that waits until it has taken as long as
usual (usual.py), so that neither words nor containment are told by the time.
"""

import asyncio
from time import perf_counter

import msgspec

from gateway.core.decision import Decision, Refusal
from gateway.core.errors import Refused
from gateway.core.facts import Roll
from gateway.dataplane import shape
from gateway.dataplane.call import Call
from gateway.dataplane.disguise import LATER_S
from gateway.dataplane.facts import facts_of
from gateway.dataplane.services import Services
from gateway.dataplane.usual import wait_until
from gateway.policy.decide import Case, acting, brief, case_of, contained, decided
from gateway.policy.record import record_of
from gateway.policy.rollout import subject_roll

TO_COME = 1.3
"""What a disguise takes until its first token is told, of what it took to make it, about (docs/proofs.md)."""


def foresee(services: Services, call: Call) -> None:
    """Decide on a call that is measured, and prepare what follows from that."""
    began = perf_counter()
    inforce = services.policies
    facts = facts_of(call, services.trusted_proxies, containment=inforce.containment)
    roll = Roll(subject_roll(services.secrets.rollout, facts), services.dice.getrandbits(64))
    case = case_of(facts, inforce.ruleset, roll)
    kind = facts.request.text_length.bit_length(), call.endpoint
    early = contained(case)
    if early is None and brief(case):
        _decide(call, case)
        services.usual.hear(kind, perf_counter() - began)
        return
    known = perf_counter()
    early = early or acting(case)
    if early.actions.refusal is not None:
        _decide(call, case)
        return
    call.decision, call.case = early, case
    usual, to_come = services.usual.of(kind), 0.0
    if early.actions.contains:
        call.foreseen = shape.foresee(services, call, early.actions)
        to_come = TO_COME * (perf_counter() - known)
    if usual is not None and (call.foreseen is not None or not early.actions.contains):
        wait_until(began + usual - to_come)


def forget(call: Call) -> None:
    """What was decided on is no longer so."""
    call.decision = call.record = call.case = call.foreseen = None


def _decide(call: Call, case: Case) -> Decision:
    call.decision = decision = decided(case)
    call.record = record_of(case.facts, case.roll, decision)
    call.case = None
    return decision


def judge(services: Services, call: Call) -> None:
    """Do as was decided on a call, which is admitted now, and have the rest asked soon. Raises Refused where a policy
    refuses it."""
    assert call.decision is not None
    decision = call.decision
    if call.case is None:
        _tell(services, call, decision)
    if decision.actions.refusal is not None:
        raise refused(decision.actions.refusal, decision.matched[-1])
    most = decision.actions.max_tokens
    if most is not None and most < call.measured.max_tokens:
        call.measured = msgspec.structs.replace(call.measured, max_tokens=most)
    if call.case is not None and call.foreseen is None:  # else it is asked with what else is done for a disguise
        asyncio.get_running_loop().call_later(LATER_S, note, services, call)


def note(services: Services, call: Call) -> None:
    """Ask the rules that only note something, where that was put off; the call is admitted."""
    if call.case is not None:
        _tell(services, call, _decide(call, call.case))


def count_contained(services: Services, call: Call) -> None:
    """Count a call that is contained, and what was put into its prompt; once."""
    if call.disguise is None or call.counted:
        return
    assert call.model is not None and call.caller is not None
    call.counted = True
    services.tally.containment(call.model.entry.name)
    if call.disguise.words is not None:
        services.evidence.gave(call.caller.principal, call.disguise.words, call.exchange.arrived_ms)


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
