"""From a decision to what is sent: as the client wrote it, or rewritten, elsewhere, later, told as if it were not.

Nothing here may fail where an ordinary request would not: what cannot be carried out as a policy says it is left out,
and counted (`catflap_policy_misfits`).
"""

from functools import lru_cache, partial

from gateway.canary.phrase import Words, sentence_of, words_of
from gateway.core.decision import Actions, Shadow
from gateway.core.errors import InvalidRequest
from gateway.core.prompt import Prompt
from gateway.dataplane.call import Call
from gateway.dataplane.disguise import Disguise
from gateway.dataplane.fit import Fitted, Touch, Work, fitted, fitted_at_once
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
    assert isinstance(call.model, ServedModel) and call.prompt is not None and call.caller is not None
    call.disguise = call.foreseen
    if call.disguise is not None:
        return call.disguise.work
    usual = Work.of(call.model, call.texts, call.measured.max_tokens)
    if call.decision is None or not call.decision.actions.contains:
        return usual
    actions = call.decision.actions
    decoy = _decoy(services, call.model, call.prompt, actions.shadow) if shadow else None
    words, sentence = _words(services, call, actions)
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
    name = name_of(actions.shadow) if decoy is not None and actions.shadow is not None else None
    call.disguise = Disguise(call, found, shadow=name, words=words, pace=late)
    return found.work


def _same(prompt: Prompt) -> Prompt:
    return prompt


def foresee(services: Services, call: Call, actions: Actions) -> Disguise | None:
    """Rewrite before it is known whether the call is admitted (judge.py says why); None where that cannot be done at
    once, or is not the only thing that is done."""
    if actions.shadow or actions.slow or actions.max_tokens is not None or not isinstance(call.model, ServedModel):
        return None
    assert call.prompt is not None
    words, sentence = _words(services, call, actions)
    try:
        found = fitted_at_once(call.prompt, call.texts, _touch(call, call.model, actions, sentence))
    except InvalidRequest:  # met again, and counted, when it is shaped
        return None
    return None if found is None else Disguise(call, found, shadow=None, words=words, pace=None)


async def _touched(call: Call, model: ServedModel, actions: Actions, sentence: str | None) -> Fitted | None:
    """The prompt as it is sent to a model; None where the model does not take it."""
    assert call.prompt is not None
    try:
        return await fitted(call.prompt, call.texts, _touch(call, model, actions, sentence))
    except InvalidRequest:  # its chat template takes the client's messages, and not these
        return None


def _touch(call: Call, model: ServedModel, actions: Actions, sentence: str | None) -> Touch:
    assert isinstance(call.model, ServedModel)
    most = call.measured.max_tokens if model.counter is call.model.counter else 2 * call.measured.max_tokens
    return Touch(model, actions.edits, sentence, min(most, model.entry.max_output_tokens), call.measured)


def _words(services: Services, call: Call, actions: Actions) -> tuple[Words | None, str | None]:
    """The canary's words, and the sentence that asks for them."""
    assert call.caller is not None
    return _canary(services.secrets.canary, call.caller.principal) if actions.canary else (None, None)


@lru_cache(REMEMBERED)
def _canary(key: bytes, principal: str) -> tuple[Words, str]:
    words = words_of(key, principal)
    return words, sentence_of(words)


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
