"""disguise: what a client is told when its prompt was touched, so that every number is what it would have been.

The untouched prompt is what the client wrote; the touched one is what the model read. Told are the untouched prompt's
tokens and the real tokens of the answer; the difference goes to a defence account (`beyond`). The context is checked
with the untouched length. Where the touched prompt then leaves too little room, the output cap is lowered without a
word, and an answer that ends there is told as one that ended by itself; where it leaves no room at all, some of the
client's own words are left out of the middle.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec

from gateway.core.decision import Slow
from gateway.core.delta import Delta, Usage
from gateway.core.prompt import Message, Prompt

Item = TypeVar("Item")

LEAST_OUTPUT = 16
"""Output tokens for which words of the client are left out, if it asked for so many."""
DRAWS = 2**32
"""Of two draws from one roll."""
MARGIN = 8
"""Characters cut beyond the estimate, since tokens are not evenly long."""


def told(real: Usage, untouched_tokens: int, *, cache_block: int = 1) -> Usage:
    """What the client is told of a request that used `real`.

    Of the cached tokens those are told that lie beyond what was added, which stands first. A backend counts its cache
    in blocks of `cache_block` tokens, so a number between two blocks is told by none.
    """
    added = max(real.prompt_tokens - untouched_tokens, 0)
    cached = min(max(real.cached_tokens - added, 0), untouched_tokens)
    return Usage(untouched_tokens, real.completion_tokens, cached - cached % cache_block)


def beyond(real: Usage, shown: Usage) -> Usage:
    """What was used and not told: the defence account's part. Never below zero."""
    prompt = max(real.prompt_tokens - shown.prompt_tokens, 0)
    cached = max(real.cached_tokens - shown.cached_tokens, 0)
    return Usage(prompt, max(real.completion_tokens - shown.completion_tokens, 0), min(cached, prompt))


class Room(NamedTuple):
    """What the model may generate. `lowered`: less than the client was granted. `excess`: tokens of the prompt that
    have to go before even that fits."""

    max_tokens: int
    lowered: bool
    excess: int


def room(context: int, touched_tokens: int, max_tokens: int) -> Room:
    """For a touched prompt of so many tokens, whose untouched one was granted `max_tokens` within `context`."""
    left = context - touched_tokens
    granted = min(max_tokens, max(left, LEAST_OUTPUT))
    return Room(granted, granted < max_tokens, max(granted - left, 0))


def told_finish(reason: str | None, *, lowered: bool) -> str | None:
    """The finish reason that the client is told: an end at a lowered cap would not add up as `length`."""
    return "stop" if lowered and reason == "length" else reason


def shortened(prompt: Prompt, excess: int, tokens: int) -> Prompt:
    """The untouched prompt, of `tokens` tokens, less about `excess` of them out of the middle of its longest text.
    Rewrite and count it again; a text of unusual tokens may need it twice."""
    words = prompt.texts or tuple(message.content for message in prompt.messages)
    if not words:
        return prompt
    longest = max(range(len(words)), key=lambda at: len(words[at]))
    text = words[longest]
    cut = min(-(-excess * sum(map(len, words)) // max(tokens, 1)) + MARGIN, len(text))
    start = (len(text) - cut) // 2
    text = text[:start] + text[start + cut :]
    if prompt.texts:
        return msgspec.structs.replace(prompt, texts=_put(prompt.texts, longest, text))
    messages = _put(prompt.messages, longest, Message(prompt.messages[longest].role, text))
    return msgspec.structs.replace(prompt, messages=messages)


def can_shadow(prompt: Prompt) -> bool:
    """Whether another model can answer unseen: not where the client reads tokens of the nominal one."""
    return prompt.sampling.logprobs is None and not prompt.sampling.logit_bias


class Retelling:
    """One choice of a decoy's answer, its tokens counted as the nominal model's. Feed each delta; the counts of all of
    them are told with the last."""

    def __init__(self, count: Callable[[str], int], max_tokens: int) -> None:
        """`count`: tokens of a text by the nominal model's tokenizer. `max_tokens`: the cap that the client knows."""
        self._count, self._max_tokens = count, max_tokens
        self._pieces: list[str] = []

    def feed(self, delta: Delta) -> Delta:
        """The delta as the nominal model would have given it; its prompt tokens are `told`'s business."""
        self._pieces.append(delta.text)
        tokens = 0
        if delta.finish_reason == "length":  # at the cap, whoever counts
            tokens = self._max_tokens
        elif delta.finish_reason is not None:
            tokens = max(self.tokens(), 1)
        return msgspec.structs.replace(delta, completion_tokens=tokens, cached_tokens=0, logprobs=None)

    def tokens(self) -> int:
        """Of what has come so far."""
        return min(self._count("".join(self._pieces)), self._max_tokens)


class Pace(NamedTuple):
    """Milliseconds from the request to its first token, and between tokens, before which none is sent."""

    first_ms: float
    gap_ms: float


class Spread(NamedTuple):
    """A busy day of a model: its times at equally spaced quantiles from 0 to 1, each at least one, ascending."""

    first_ms: tuple[float, ...]
    gap_ms: tuple[float, ...]


def pace(slow: Slow, spread: Spread, roll: int) -> Pace:
    """Somewhere between the quantiles of `slow`, by a roll below 2**64; first token and gap are drawn apart."""
    gap_draw, first_draw = divmod(roll, DRAWS)
    return Pace(
        _at_quantile(spread.first_ms, slow.low + (slow.high - slow.low) * first_draw / DRAWS),
        _at_quantile(spread.gap_ms, slow.low + (slow.high - slow.low) * gap_draw / DRAWS),
    )


def _at_quantile(values: tuple[float, ...], quantile: float) -> float:
    """Between the two nearest of them."""
    place = quantile * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (place - below)


def _put(items: tuple[Item, ...], at: int, item: Item) -> tuple[Item, ...]:
    return (*items[:at], item, *items[at + 1 :])
