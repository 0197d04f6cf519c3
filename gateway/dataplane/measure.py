"""How much a request may use: its prompt against the model's context, its output against every cap, all before a GPU
sees it. What comes out is an upper bound that admission reserves and the backend cannot pass."""

import msgspec

from gateway.core.delta import Usage
from gateway.core.errors import ContextLengthExceeded, InvalidRequest, TooLargeForPlan
from gateway.core.prompt import Prompt
from gateway.core.reservation import Denial
from gateway.fleet.models import ServedModel
from gateway.fleet.tokens import Aside
from gateway.limits.plans import Limit
from gateway.limits.weights import SCALE

LEEWAY = 128
"""Tokens by which a bound must fit the context to be good enough (an eighth of the context where that is less). What is
added to a contained prompt must fit there, too; were only its own length then counted, and not that of others as long,
it would be later than they."""


class Measured(msgspec.Struct, frozen=True, gc=False):
    """`max_tokens` of each choice, and the most that the whole request may use. `exact`: the prompt was counted with
    the model's tokenizer, not bounded by its bytes. `counts`: so many tokens is each text."""

    max_tokens: int
    ceiling: Usage
    exact: bool
    counts: tuple[int, ...] = ()


async def measure(
    prompt: Prompt,
    texts: tuple[str, ...],
    model: ServedModel,
    default_max_tokens: int,
    limits: tuple[Limit, ...],
    aside: Aside,
    *,
    exactly: bool = False,
) -> Measured:
    """Raises ContextLengthExceeded, InvalidRequest, TooLargeForPlan, and what `aside` raises.

    Prompts are first bounded by their bytes, which costs nothing; they are counted with the model's tokenizer only
    where that bound would not fit, or when `exactly` is asked for; long ones `aside`.
    """
    counts, exact = [model.bound(text) for text in texts], model.counter.exact
    choices = len(texts) * prompt.n
    if not exact and (exactly or not _fits(counts, prompt, model, default_max_tokens, choices, limits)):
        _refuse_the_hopeless(prompt, texts, model)
        counts, exact = await model.count_each(texts, aside), True
    max_tokens = _max_tokens(prompt, model, max(counts), default_max_tokens)
    if prompt.max_tokens is None:
        # a default must not refuse what the client never asked for
        max_tokens = max(1, min([max_tokens, *(most // choices for most in _most_output(limits, sum(counts)))]))
    ceiling = Usage(sum(counts), max_tokens * choices)
    if (passed := never_fits(limits, ceiling)) is not None:
        blamed = prompt.max_tokens_name if _prompt_fits(limits, ceiling.prompt_tokens) else field_of(prompt)
        raise too_large(passed, ceiling, f"Shorten the prompt or lower '{prompt.max_tokens_name}'.", blamed)
    return Measured(max_tokens, ceiling, exact, tuple(counts))


def counting_may_help(measured: Measured, limits: tuple[Limit, ...], denial: Denial) -> bool:
    """Whether a refused request might fit when its prompt is counted and not bounded: not where it has been counted,
    nor where its output alone is too much. Counting takes time, which a flood of hopeless requests must not be
    given."""
    if measured.exact or denial.limit.measure not in ("tokens", "cost"):
        return False
    least = Usage(1, measured.ceiling.completion_tokens)
    return all(limit.units(least) <= state.remaining for limit, state in zip(limits, denial.states, strict=True))


def _most_output(limits: tuple[Limit, ...], prompt_tokens: int) -> list[int]:
    """The most output tokens that each limit could ever take beside such a prompt."""
    found = [limit.weights.most_output(limit.cap, prompt_tokens) for limit in limits]
    return [most for most in found if most is not None]


def _fits(
    counts: list[int], prompt: Prompt, model: ServedModel, default: int, choices: int, limits: tuple[Limit, ...]
) -> bool:
    output = default if prompt.max_tokens is None else prompt.max_tokens
    context = model.entry.context_tokens
    leeway = min(LEEWAY, context // 8)
    in_context = max(counts) + min(output, model.entry.max_output_tokens) + leeway <= context
    return in_context and output * choices <= min(_most_output(limits, sum(counts)), default=output * choices)


def _refuse_the_hopeless(prompt: Prompt, texts: tuple[str, ...], model: ServedModel) -> None:
    """A text that is too long even by its fewest tokens is not worth counting (which takes seconds for megabytes)."""
    least = max(model.floor(text) for text in texts)
    if least >= model.entry.context_tokens:
        what = field_of(prompt)
        raise ContextLengthExceeded(
            f"This model's maximum context length is {model.entry.context_tokens} tokens. However, your {what} alone "
            f"needs at least {least} tokens. Please shorten the {what}.",
            param=what,
        )


def _max_tokens(prompt: Prompt, model: ServedModel, longest: int, default: int) -> int:
    entry = model.entry
    what = field_of(prompt)
    left = entry.context_tokens - longest
    asked = prompt.max_tokens
    if asked is not None and asked > entry.max_output_tokens:
        raise InvalidRequest(
            f"'{prompt.max_tokens_name}' is too large: {asked}. This model answers with at most "
            f"{entry.max_output_tokens} tokens.",
            param=prompt.max_tokens_name,
        )
    if left < (asked or 1):
        raise ContextLengthExceeded(
            f"This model's maximum context length is {entry.context_tokens} tokens. However, your request needs "
            f"{longest + (asked or 1)} tokens ({longest} in the {what}, {asked or 1} in the completion). "
            f"Please shorten the {what}{' or the completion' if asked else ''}.",
            param=what,
        )
    return asked if asked is not None else min(default, left, entry.max_output_tokens)


def field_of(prompt: Prompt) -> str:
    """What the client calls its prompt."""
    return "messages" if prompt.endpoint == "chat" else "prompt"


def never_fits(limits: tuple[Limit, ...], ceiling: Usage) -> Limit | None:
    """The first limit that could not take the request even if nothing else were asked."""
    for limit in limits:
        if limit.units(ceiling) > limit.cap:
            return limit
    return None


def too_large(limit: Limit, ceiling: Usage, advice: str, param: str | None = None) -> TooLargeForPlan:
    """What the client of such a request reads."""
    return TooLargeForPlan(
        f"This request could use {units(limit, limit.units(ceiling))}, more than the {units(limit, limit.cap)} "
        f"of its limit {limit.name.replace('_', ' ')}; it can never be admitted. {advice}",
        param=param,
    )


def _prompt_fits(limits: tuple[Limit, ...], prompt_tokens: int) -> bool:
    return all(limit.units(Usage(prompt_tokens, 1)) <= limit.cap for limit in limits)


def units(limit: Limit, number: int) -> str:
    """A number of a limit's units in words."""
    return f"{number / SCALE:.12g} cost units" if limit.measure == "cost" else f"{number} {limit.measure}"
