"""What a request weighs: one linear rule for every measure, in integers, so that no two processes ever round apart."""

import msgspec

from gateway.core.delta import Usage

SCALE = 1000
"""Weights are kept in thousandths: a plan or fleet file may give three decimals."""
GIB_MS = (1 << 30) * 1000


class Weights(msgspec.Struct, frozen=True, array_like=True):
    """Thousandths of a unit for each token of a kind and for the request itself.

    Decoding holds the GPU while prefill shares it, so output may weigh more; a cached prompt costs next to nothing.
    """

    prompt: int = SCALE
    cached: int = SCALE
    """Of a prompt token that the backend found in its prefix cache; never more than `prompt`."""
    output: int = SCALE
    request: int = 0

    def units(self, usage: Usage) -> int:
        """Whole units, rounded up once for the whole request."""
        fresh = usage.prompt_tokens - usage.cached_tokens
        thousandths = (
            self.request
            + self.prompt * fresh
            + self.cached * usage.cached_tokens
            + self.output * usage.completion_tokens
        )
        return -(-thousandths // SCALE)

    def most_output(self, cap: int, prompt_tokens: int) -> int | None:
        """The most output tokens that fit into `cap` units beside such a prompt, below 0 where the prompt alone does
        not fit; None where output weighs nothing."""
        left = cap * SCALE - self.request - self.prompt * prompt_tokens
        return left // self.output if self.output else None if left >= 0 else -1


ONE_REQUEST = Weights(0, 0, 0, SCALE)
"""Requests and concurrency: each request is one."""


class Price(msgspec.Struct, frozen=True):
    """What a model's work costs. `weights` counts thousandths of a cost unit (a fleet file gives cost units per 1,000
    tokens, which is the same number); `kv` is thousandths of a cost unit for a GiB of KV cache held for a second;
    `kv_bytes` is how much of it a token fills."""

    weights: Weights = Weights()
    kv: int = 0
    kv_bytes: int = 0

    def kv_cost(self, prompt_tokens: int, completion_tokens: int, held_ms: int) -> int:
        """Thousandths of a cost unit for the KV cache that a generation of `held_ms` milliseconds has held: its prompt
        all the time, its output half of it, as it grew evenly."""
        if not self.kv or not self.kv_bytes:
            return 0
        doubled = self.kv_bytes * (2 * prompt_tokens + completion_tokens) * held_ms * self.kv
        return -(-doubled // (2 * GIB_MS))


def thousandths(number: float) -> int:
    """A weight or price of a file, in thousandths."""
    return round(number * SCALE)
