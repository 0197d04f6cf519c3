"""How much a request may use: its prompt against the model's context, its output against every cap, all before a GPU
sees it. What comes out is an upper bound that admission reserves and the backend cannot pass."""

from gateway.core.errors import ContextLengthExceeded, InvalidRequest, TooLargeForPlan
from gateway.core.prompt import Prompt
from gateway.fleet.models import ServedModel
from gateway.limits.plans import Limit


async def measure(
    prompt: Prompt, texts: tuple[str, ...], model: ServedModel, default_max_tokens: int, limits: tuple[Limit, ...]
) -> tuple[int, int]:
    """(output tokens of each choice, tokens to reserve). Raises ContextLengthExceeded, InvalidRequest, TooLargeForPlan.

    Prompts are first bounded by their bytes, which costs nothing; they are counted with the model's tokenizer only
    where that bound would not fit.
    """
    counts = [model.bound(text) for text in texts]
    room = _room(limits)
    choices = len(texts) * prompt.n
    if not model.counter.exact and not _fits(counts, prompt, model, default_max_tokens, choices, room):
        counts = [await model.count(text) for text in texts]
    max_tokens = _max_tokens(prompt, model, max(counts), default_max_tokens)
    if prompt.max_tokens is None and room is not None:
        # a default must not refuse what the client never asked for
        max_tokens = max(1, min(max_tokens, (room - sum(counts)) // choices))
    tokens = sum(counts) + max_tokens * choices
    if room is not None and tokens > room:
        raise TooLargeForPlan(
            f"This request could use {tokens} tokens, more than the {room} tokens a minute of its limit; it can never "
            f"be admitted. Shorten the prompt or lower '{prompt.max_tokens_name}'.",
            param=prompt.max_tokens_name
            if sum(counts) < room
            else "messages"
            if prompt.endpoint == "chat"
            else "prompt",
        )
    return max_tokens, tokens


def _room(limits: tuple[Limit, ...]) -> int | None:
    """The smallest cap on tokens."""
    return min((limit.cap for limit in limits if limit.measure == "tokens"), default=None)


def _fits(counts: list[int], prompt: Prompt, model: ServedModel, default: int, choices: int, room: int | None) -> bool:
    output = default if prompt.max_tokens is None else prompt.max_tokens
    in_context = max(counts) + min(output, model.entry.max_output_tokens) <= model.entry.context_tokens
    return in_context and (room is None or sum(counts) + output * choices <= room)


def _max_tokens(prompt: Prompt, model: ServedModel, longest: int, default: int) -> int:
    entry = model.entry
    what = "messages" if prompt.endpoint == "chat" else "prompt"
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
