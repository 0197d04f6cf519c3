"""From a decision to what is sent: as the client wrote it, or rewritten, elsewhere, later, told as if it were not.

Nothing here may fail where an ordinary request would not: what cannot be carried out as a policy says it is left out,
and counted (`catflap_policy_misfits`).
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from gateway.canary.phrase import Words, sentence_of, words_of
from gateway.core.decision import Actions, Shadow
from gateway.core.errors import InvalidRequest
from gateway.core.prompt import Prompt
from gateway.dataplane.call import Call
from gateway.dataplane.disguise import Disguise, Work
from gateway.dataplane.services import Services
from gateway.fleet.models import ServedModel
from gateway.policy.disguise import can_shadow, pace, room, shortened
from gateway.policy.rewrite import rewrite

ROUNDS = 8
"""Times that a prompt is shortened and counted again before it is left as it was."""

Edit = Callable[[Prompt], Prompt]


class Fitted(NamedTuple):
    """A touched prompt that fits the model; `lowered`: its answer may be shorter than the client was granted."""

    prompt: Prompt
    work: Work
    lowered: bool


async def shape(services: Services, call: Call, *, shadow: bool = True) -> Work:
    """What to send for an admitted call. Sets `call.disguise` where that is not what the client is told.
    `shadow`: False once the decoy has failed."""
    assert isinstance(call.model, ServedModel) and call.prompt is not None and call.caller is not None
    usual = Work(call.model, call.texts, call.measured.max_tokens)
    if call.decision is None or not call.decision.actions.contains:
        return usual
    actions = call.decision.actions
    decoy = _decoy(services, call.model, call.prompt, actions.shadow) if shadow else None
    words = words_of(services.secrets.canary, call.caller.principal) if actions.canary else None
    fitted = await _touched(call.prompt, decoy or call.model, actions, words, usual.max_tokens)
    if fitted is None:
        services.tally.misfit("rewrite")
        fitted, decoy, words = Fitted(call.prompt, usual, lowered=False), None, None
    if words is not None:
        services.evidence.gave(call.caller.principal, words, call.exchange.arrived_ms)
    call.disguise = Disguise(
        call,
        fitted.work,
        fitted.prompt,
        lowered=fitted.lowered,
        shadow=_name(actions.shadow) if decoy is not None else None,
        words=words,
        pace=_pace(services, call, actions),
    )
    return fitted.work


async def _touched(
    prompt: Prompt, model: ServedModel, actions: Actions, words: Words | None, max_tokens: int
) -> Fitted | None:
    """The prompt as it is sent; None where no way was found to make it fit."""
    sentence = None if words is None else sentence_of(words)
    edit = partial(rewrite, edits=actions.edits, canary=sentence, system_role=model.system_role)
    try:
        return await _fitted(prompt, model, edit, max_tokens)
    except InvalidRequest:  # the chat template takes the client's messages, and not these
        return None


async def _fitted(prompt: Prompt, model: ServedModel, edit: Edit, max_tokens: int) -> Fitted | None:
    """Raises InvalidRequest where the model's template does not take the messages."""
    touched, most = edit(prompt), min(max_tokens, model.entry.max_output_tokens)
    texts = model.render(touched)
    if model.fits(texts, most):
        return Fitted(touched, Work(model, texts, most), most < max_tokens)
    for _ in range(ROUNDS):
        tokens = max(await model.count_each(texts, asyncio.to_thread))
        space = room(model.entry.context_tokens, tokens, most)
        if not space.excess:
            return Fitted(touched, Work(model, texts, space.max_tokens), space.max_tokens < max_tokens)
        prompt = shortened(prompt, space.excess, tokens)
        touched = edit(prompt)
        texts = model.render(touched)
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
    if found is None or not (can_shadow(prompt) or found.counter is model.counter):
        services.tally.misfit("shadow")
        return None
    return found


def _name(shadow: Shadow | None) -> str | None:
    if shadow is None:
        return None
    return shadow.model if shadow.model is not None else f"pool:{shadow.pool}"


def _pace(services: Services, call: Call, actions: Actions) -> "tuple[float, float] | None":
    """Milliseconds to the first token and between tokens; None where nothing is held back."""
    if actions.slow is None:
        return None
    assert call.model is not None and call.record is not None
    spread = services.spreads.of(call.model.entry.name)
    if spread is None:
        services.tally.misfit("slow")
        return None
    return pace(actions.slow, spread, call.record.roll.request)
