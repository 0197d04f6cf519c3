"""What a backend says of one choice, in the order in which it says it: the neutral form of every adapter's output."""

import msgspec


class TokenLogprob(msgspec.Struct, frozen=True, gc=False):
    """One generated token with its natural-log probability and the alternatives beside it, the best first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class Delta(msgspec.Struct, gc=False):
    """A piece of a choice. Counts: `prompt_tokens` is the whole prompt, `completion_tokens` those of this piece."""

    text: str
    choice: int = 0
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt's tokens, those that the backend found in its prefix cache, where it says so."""
    logprobs: tuple[TokenLogprob, ...] | None = None


class Usage(msgspec.Struct, gc=False):
    """Tokens of a whole request."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Part of `prompt_tokens`."""
