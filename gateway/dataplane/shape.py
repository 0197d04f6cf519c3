"""From a decision to what is sent: as the client wrote it, or rewritten, elsewhere, later, told as if it were not.

Nothing here may fail where an ordinary request would not: what cannot be carried out as a policy says it is left out,
and counted (`catflap_policy_misfits`).
"""

from contextlib import suppress
from functools import partial

from gateway.canary.phrase import Words, sentence_of, words_of
from gateway.core.decision import Actions, Shadow
from gateway.core.errors import InvalidRequest
from gateway.core.prompt import Prompt
from gateway.dataplane.call import Call, Foreseen
from gateway.dataplane.disguise import Disguise
from gateway.dataplane.fit import Fitted, Touch, Work, fitted, fitted_at_once
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
    if call.foreseen is not None and actions.slow is None:
        call.disguise = Disguise(call, call.foreseen.fitted, shadow=None, words=call.foreseen.words, pace=None)
        return call.foreseen.fitted.work
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


def foresee(services: Services, call: Call) -> None:
    """Rewrite before it is known whether the call is admitted, where that can be done at once (judge.py says why)."""
    if call.decision is None or call.prompt is None or not isinstance(call.model, ServedModel):
        return
    actions = call.decision.actions
    if actions.shadow is not None or actions.max_tokens is not None or not (actions.edits or actions.canary):
        return  # where it goes, or what it may use, is not settled yet
    words, sentence = _words(services, call, actions)
    with suppress(InvalidRequest):  # met again, and counted, when it is shaped
        found = fitted_at_once(call.prompt, call.texts, _touch(call, call.model, actions, sentence))
        call.foreseen = None if found is None else Foreseen(found, words)


async def _touched(call: Call, model: ServedModel, actions: Actions, sentence: str | None) -> Fitted | None:
    """The prompt as it is sent to a model; None where the model does not take it."""
    assert call.prompt is not None
    if call.foreseen is not None and model is call.model:
        return call.foreseen.fitted
    try:
        return await fitted(call.prompt, call.texts, _touch(call, model, actions, sentence))
    except InvalidRequest:  # its chat template takes the client's messages, and not these
        return None


def _touch(call: Call, model: ServedModel, actions: Actions, sentence: str | None) -> Touch:
    assert isinstance(call.model, ServedModel)
    most = call.measured.max_tokens if model.counter is call.model.counter else 2 * call.measured.max_tokens
    return Touch(model, actions.edits, sentence, most, call.measured)


def _words(services: Services, call: Call, actions: Actions) -> tuple[Words | None, str | None]:
    """The canary's words, and the sentence that asks for them."""
    assert call.caller is not None
    if not actions.canary:
        return None, None
    words = words_of(services.secrets.canary, call.caller.principal)
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
