"""disguise: what a client is told when its prompt was touched, so that every number is what it would have been.

The untouched prompt is what the client wrote; the touched one is what the model read. Told are the untouched prompt's
tokens and the real tokens of the answer; the difference goes to a defence account (`beyond`). The context is checked
with the untouched length. Where the touched prompt and the answer that was granted do not fit it together, some of the
client's own words are left out of the middle; where it has too few of them for that, the output cap is lowered, and an
answer that ends there is told as one that ended by itself.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from gateway.core.decision import Slow
from gateway.core.delta import Delta, Usage
from gateway.core.prompt import Message, Prompt

Item = TypeVar("Item")

DRAWS = 2**32
"""Of two draws from one roll."""
MARGIN = 8
"""Characters cut beyond the estimate, since tokens are not evenly long."""
MOST_CUT = 0.25
"""The share of a prompt's tokens that may be left out; past that the answer would show it, and its cap is lowered."""
SETTLED = 256
"""Characters of an answer after which its beginning is counted for good, up to a space."""


def told(prompt_tokens: int, cached_tokens: int, untouched: int, *, added: int, cache_block: int = 1) -> int:
    """The cached tokens that a client is told of a touched prompt of so many tokens, whose untouched one has
    `untouched`, behind the `added` ones that stand first.

    A backend finds whole blocks. Where it found all that it can, so it would have of the untouched prompt; else what
    lies beyond what was added was found, which is exact where whole blocks were added.
    """
    if cached_tokens <= added:
        return 0
    if cached_tokens >= _blocks(prompt_tokens - 1, cache_block):
        last = 0 if cached_tokens >= prompt_tokens else 1
        return _blocks(max(untouched - last, 0), cache_block)
    return min(_blocks(cached_tokens - added, cache_block), _blocks(untouched, cache_block))


def _blocks(tokens: int, block: int) -> int:
    return tokens - tokens % block


def beyond(real: Usage, shown: Usage) -> Usage:
    """What was used and not told: the defence account's part. Never below zero."""
    prompt = max(real.prompt_tokens - shown.prompt_tokens, 0)
    cached = max(real.cached_tokens - shown.cached_tokens, 0)
    return Usage(prompt, max(real.completion_tokens - shown.completion_tokens, 0), min(cached, prompt))


def excess(context: int, touched: int, max_tokens: int) -> int:
    """Tokens of a touched prompt that are too many beside an answer of `max_tokens`; 0 where both fit."""
    return max(touched + max_tokens - context, 0)


def worth_cutting(excess_tokens: int, untouched: int) -> bool:
    """Whether so many of the client's own tokens may be left out, rather than to lower its cap."""
    return excess_tokens <= MOST_CUT * untouched


def told_finish(reason: str | None, *, lowered: bool) -> str | None:
    """The finish reason that the client is told: an end at a lowered cap would not add up as `length`."""
    return "stop" if lowered and reason == "length" else reason


def pieces_of(prompt: Prompt) -> tuple[str, ...]:
    """The client's words, piece by piece: messages of a chat, or texts."""
    return prompt.texts or tuple(message.content for message in prompt.messages)


def cut(text: str, excess_tokens: int, tokens: int, times: int = 1) -> str:
    """The text, of `tokens` tokens, less about `excess_tokens` of them out of its middle, and `times` as many
    characters."""
    gone = min((-(-excess_tokens * len(text) // max(tokens, 1)) + MARGIN) * times, len(text))
    start = (len(text) - gone) // 2
    return text[:start] + text[start + gone :]


def with_piece(prompt: Prompt, at: int, text: str) -> Prompt:
    """The prompt with another text in place of one of its pieces."""
    if prompt.texts:
        return msgspec.structs.replace(prompt, texts=_put(prompt.texts, at, text))
    messages = _put(prompt.messages, at, Message(prompt.messages[at].role, text))
    return msgspec.structs.replace(prompt, messages=messages)


def can_shadow(prompt: Prompt) -> bool:
    """Whether another model can answer unseen: not where the client reads tokens of the nominal one."""
    return prompt.sampling.logprobs is None and not prompt.sampling.logit_bias


class Retelling:
    """One choice of a decoy's answer, its tokens counted as the nominal model's, delta by delta."""

    def __init__(self, count: Callable[[str], int], max_tokens: int) -> None:
        """`count`: tokens of a text by the nominal model's tokenizer. `max_tokens`: the cap that the client knows."""
        self._count, self._max_tokens = count, max_tokens
        self._settled = 0  # tokens of what no later text can change
        self._open = ""  # what comes after that
        self._told = 0

    def feed(self, delta: Delta) -> Delta:
        """The delta as the nominal model would have given it, up to its cap, where it ends; its prompt tokens are not
        this one's business."""
        text, reason = delta.text, delta.finish_reason
        tokens = self._tokens(text)
        if tokens > self._max_tokens:
            text, tokens, reason = self._shortest(text), self._max_tokens, "length"
        elif reason == "length" and tokens < self._max_tokens:
            reason = "stop"  # at a cap that the client knows nothing of
        self._take(text)
        tokens = max(tokens, 1) if reason is not None else tokens
        more, self._told = max(tokens - self._told, 0), max(tokens, self._told)
        return msgspec.structs.replace(delta, text=text, finish_reason=reason, completion_tokens=more, logprobs=None)

    def _tokens(self, more: str) -> int:
        return self._settled + self._count(self._open + more)

    def _take(self, text: str) -> None:
        self._open += text
        if len(self._open) > SETTLED and (space := self._open.rfind(" ", 1)) > 0:
            self._settled += self._count(self._open[:space])
            self._open = self._open[space:]

    def _shortest(self, text: str) -> str:
        """As much of the text as the cap takes."""
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._tokens(text[:middle]) <= self._max_tokens else (low, middle - 1)
        return text[:low]


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


def within(wanted: Pace, max_tokens: int, most_ms: float) -> Pace:
    """The pace, quickened where an answer of `max_tokens` would take longer than `most_ms`."""
    first = min(wanted.first_ms, most_ms / 2)
    return Pace(first, min(wanted.gap_ms, (most_ms - first) / max(max_tokens, 1)))


def _at_quantile(values: Sequence[float], quantile: float) -> float:
    """Between the two nearest of them."""
    place = quantile * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (place - below)


def _put(items: tuple[Item, ...], at: int, item: Item) -> tuple[Item, ...]:
    return (*items[:at], item, *items[at + 1 :])
