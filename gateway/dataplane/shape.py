"""From a decision to what is sent: as the client wrote it, or rewritten, elsewhere, later, told as if it were not.

Nothing here may fail where an ordinary request would not: what cannot be carried out as a policy says it is left out,
and counted (`catflap_policy_misfits`).
"""

from functools import partial

from gateway.canary.phrase import sentence_of, words_of
from gateway.core.decision import Actions, Shadow
from gateway.core.errors import InvalidRequest
from gateway.core.prompt import Prompt
from gateway.dataplane.call import Call
from gateway.dataplane.disguise import Disguise
from gateway.dataplane.fit import Fitted, Work, fitted
from gateway.dataplane.resting import name_of
from gateway.dataplane.services import Services
from gateway.fleet.models import ServedModel
from gateway.policy.disguise import Pace, can_shadow, pace, within

PATIENCE = 0.5
"""The share of a request's longest life that slowness may take."""


async def shape(services: Services, call: Call, *, shadow: bool = True) -> Work:
    """What to send for an admitted call. Sets `call.disguise` where that is not what the client is told.
    `shadow`: False once the decoy has failed."""
    assert isinstance(call.model, ServedModel) and call.prompt is not None and call.caller is not None
    usual = Work.of(call.model, call.texts, call.measured.max_tokens)
    call.disguise = None
    if call.decision is None or not call.decision.actions.contains:
        return usual
    actions = call.decision.actions
    decoy = _decoy(services, call.model, call.prompt, actions.shadow) if shadow else None
    words = words_of(services.secrets.canary, call.caller.principal) if actions.canary else None
    sentence = None if words is None else sentence_of(words)
    found = None
    if decoy is not None:
        found = await _touched(call, decoy, actions, sentence)
        if found is None:
            services.tally.misfit("shadow")
            decoy = None
    if found is None and (actions.edits or sentence):
        found = await _touched(call, call.model, actions, sentence)
        if found is None:
            services.tally.misfit("rewrite")
    late = _pace(services, call, actions)
    if found is None and late is None:
        return usual
    if found is None:
        found, words = Fitted(partial(_same, call.prompt), usual, 0, apart=True), None
    if words is not None:
        services.evidence.gave(call.caller.principal, words, call.exchange.arrived_ms)
    name = name_of(actions.shadow) if decoy is not None and actions.shadow is not None else None
    call.disguise = Disguise(call, found, shadow=name, words=words, pace=late)
    return found.work


def _same(prompt: Prompt) -> Prompt:
    return prompt


async def _touched(call: Call, model: ServedModel, actions: Actions, sentence: str | None) -> Fitted | None:
    """The prompt as it is sent to a model; None where the model does not take it."""
    assert call.prompt is not None and isinstance(call.model, ServedModel)
    try:
        most = call.measured.max_tokens if model.counter is call.model.counter else 2 * call.measured.max_tokens
        return await fitted(call.prompt, call.texts, call.measured, model, actions.edits, sentence, most=most)
    except InvalidRequest:  # its chat template takes the client's messages, and not these
        return None


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
    assert call.model is not None and call.record is not None
    spread = services.spreads.of(call.model.entry.name)
    if spread is None:
        services.tally.misfit("slow")
        return None
    most_ms = services.bounds.request_s * 1000 * PATIENCE
    return within(pace(actions.slow, spread, call.record.roll.request), call.measured.max_tokens, most_ms)
