"""From a decision to what is sent: as the client wrote it, or rewritten, elsewhere, later, told as if it were not.

Nothing here may fail where an ordinary request would not: what cannot be carried out as a policy says it is left out,
and counted (`catflap_policy_misfits`).
"""

from functools import lru_cache, partial
from typing import NamedTuple

from gateway.canary.phrase import Words, sentence_of, words_of
from gateway.core.decision import Actions, Edit, Shadow
from gateway.core.errors import InvalidRequest
from gateway.core.prompt import Prompt
from gateway.dataplane.call import Call
from gateway.dataplane.disguise import Disguise
from gateway.dataplane.fit import Asked, Fitted, Touch, Work, fitted, fitted_cheaply
from gateway.dataplane.resting import name_of
from gateway.dataplane.services import Services
from gateway.fleet.models import ServedModel
from gateway.policy.disguise import Pace, can_shadow, pace, within

PATIENCE = 0.5
"""The share of a request's longest life that slowness may take."""

REMEMBERED = 4096


async def shape(services: Services, call: Call, *, shadow: bool = True) -> Work:
    """What to send for an admitted call. Sets `call.disguise` where that is not what the client is told.
    `shadow`: False once the decoy has failed."""
    assert isinstance(call.model, ServedModel) and call.prompt is not None
    call.disguise = call.foreseen
    if call.disguise is not None:
        return call.disguise.work
    usual = Work.of(call.model, call.texts, call.measured.max_tokens)
    if call.decision is None or not call.decision.actions.contains:
        return usual
    actions, found = call.decision.actions, None
    decoy = _decoy(services, call.model, call.prompt, actions.shadow) if shadow else None
    if decoy is not None:
        found = await _touched(services, call, decoy, actions)
        if found is None:
            services.tally.misfit("shadow")
            decoy = None
    if found is None and (actions.edits or actions.canary):
        found = await _touched(services, call, call.model, actions)
        if found is None:
            services.tally.misfit("rewrite")
    late = _pace(services, call, actions)
    if found is None and late is None:
        return usual
    words = None if found is None else _plan(services, call, call.model, actions).words
    if found is None:
        found = Fitted(partial(_same, call.prompt), usual, 0, apart=True)
    name = name_of(actions.shadow) if decoy is not None and actions.shadow is not None else None
    call.disguise = Disguise(call, found, shadow=name, words=words, pace=late)
    return found.work


def _same(prompt: Prompt) -> Prompt:
    return prompt


def foresee(services: Services, call: Call, actions: Actions) -> Disguise | None:
    """Rewrite before it is known whether the call is admitted (judge.py says why); None where that takes time, which a
    refusal would then take as well, or is not the only thing that is done."""
    model = call.model
    if actions.shadow or actions.slow or actions.max_tokens is not None or not isinstance(model, ServedModel):
        return None
    plan = _plan(services, call, model, actions)
    try:
        found = fitted_cheaply(_asked(call, model), plan.touch)
    except InvalidRequest:  # met again, and counted, when it is shaped
        return None
    return None if found is None else Disguise(call, found, shadow=None, words=plan.words, pace=None)


async def _touched(services: Services, call: Call, model: ServedModel, actions: Actions) -> Fitted | None:
    """The prompt as it is sent to a model; None where the model does not take it."""
    try:
        return await fitted(_asked(call, model), _plan(services, call, model, actions).touch)
    except InvalidRequest:  # its chat template takes the client's messages, and not these
        return None


def _asked(call: Call, model: ServedModel) -> Asked:
    assert isinstance(call.model, ServedModel) and call.prompt is not None
    most, counts = call.measured.max_tokens, call.measured.counts
    if model.counter is not call.model.counter:
        most, counts = 2 * most, ()
    return Asked(call.prompt, call.texts, min(most, model.entry.max_output_tokens), counts)


class Plan(NamedTuple):
    """What is done to every prompt of a principal. `words`: of its canary, where there is one."""

    touch: Touch
    words: Words | None


def _plan(services: Services, call: Call, model: ServedModel, actions: Actions) -> Plan:
    assert call.caller is not None
    return plan_of(services.secrets.canary, call.caller.principal, model, actions.edits, actions.canary)


@lru_cache(REMEMBERED)
def plan_of(key: bytes, principal: str, model: ServedModel, edits: tuple[Edit, ...], canary: bool) -> Plan:
    """For a model. `key`: the secret of canaries."""
    words = words_of(key, principal) if canary else None
    return Plan(Touch(model, edits, None if words is None else sentence_of(words)), words)


def _decoy(services: Services, model: ServedModel, prompt: Prompt, shadow: Shadow | None) -> ServedModel | None:
    """Who serves in the model's place; None: nobody does."""
    if shadow is None:
        return None
    if shadow.pool is not None:
        found = model.of_pool(shadow.pool)
    else:
        other = services.models.get(shadow.model or "")
        found = other if isinstance(other, ServedModel) else None
    able = found is not None and (found.counter is model.counter or can_shadow(prompt))
    if not able or services.resting.rests(name_of(shadow)):
        services.tally.misfit("shadow")
        return None
    return found


def _pace(services: Services, call: Call, actions: Actions) -> Pace | None:
    """None where nothing is held back."""
    if actions.slow is None:
        return None
    assert call.model is not None
    spread = services.spreads.of(call.model.entry.name)
    if spread is None:
        services.tally.misfit("slow")
        return None
    most_ms = services.bounds.request_s * 1000 * PATIENCE
    return within(pace(actions.slow, spread, call.roll.request), call.measured.max_tokens, most_ms)
