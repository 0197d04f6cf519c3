"""What the engine knows of a request and of each of its outputs, and what it hands back."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np

from .parameters import Parameters
from .text import OutputText

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token in a list of alternatives."""

    logprob: float
    rank: int
    decoded_token: str


Told = list[dict[int, TokenLogprob]]


@dataclass(slots=True)
class Piece:
    """What one step added to one output of a request."""

    text: str = ""
    tokens: int = 0
    logprobs: Told | None = None
    """One object a token; None when none were asked for."""
    cumulative_logprob: float = 0.0
    """Of the whole output so far."""
    finish: Finish | None = None

    def add(self, later: "Piece") -> None:
        """Append a later piece of the same output."""
        self.text += later.text
        self.tokens += later.tokens
        self.cumulative_logprob = later.cumulative_logprob
        self.finish = later.finish
        if later.logprobs is not None:
            self.logprobs = (self.logprobs or []) + later.logprobs


class PromptTokens(NamedTuple):
    """How long a prompt is, and how much of it the prefix cache spared when it was first let in."""

    whole: int
    cached: int


class Sink(Protocol):
    """Where a request's answer goes. `cancelled` is called from the engine's thread, the rest from the sender's. What
    they raise ends their own request and no other.

    `cancelled` is not called any more when the last of the others may have been: Triton's server crashes when it is
    asked about an answer that has ended.
    """

    def cancelled(self) -> bool: ...
    def send(self, prompt: PromptTokens, pieces: list[Piece], last: bool) -> None:
        """One step: a piece for each of the request's n outputs; `last` when all of them have finished."""

    def drop(self) -> None:
        """The request was cancelled; nothing more comes."""

    def fail(self) -> None:
        """Something of the request's own raised an exception; nothing more comes."""


class Counters(Protocol):
    """Told at once: a token is counted when it is computed, not when it is sent."""

    def prompt(self, tokens: int, cached: int) -> None:
        """A request was let in for the first time: tokens of its prompt, and how many the prefix cache spared."""

    def generated(self, tokens: int) -> None: ...
    def preempted(self) -> None: ...
    def load(self, running: int, waiting: int, kv_usage: float) -> None: ...


@dataclass(slots=True, eq=False)
class Request:
    """A request in the engine."""

    prompt_tokens: int
    most_tokens: int
    """Of each output."""
    parameters: Parameters
    sink: Sink
    sequences: list["Sequence"] = field(default_factory=list)
    counted: bool = False
    """Whether its prompt has been told to the counters."""
    cached_tokens: int = 0
    """Of its prompt, as it was then."""
    failed: bool = False
    """Whether its sink raised an exception and takes no more. Set by the sender; the engine then lets go of it."""
    ended: bool = False
    """Whether its sink was told of its failure. The sender's own."""


@dataclass(slots=True, eq=False)
class Sequence:
    """One output of a request: its tokens, and how many of them are in the KV cache."""

    request: Request
    tokens: list[int]
    """Prompt and generated tokens. Preemption takes the blocks and leaves these."""
    text: OutputText
    generator: np.random.Generator
    order: int
    """By arrival: the later one yields to the earlier."""
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    """Tokens whose keys and values stand in `blocks`."""
    hashes: list[bytes] = field(default_factory=list)
    """Chained hashes of the full blocks of `tokens`, as far as they have been needed."""
    counts: Counter[int] = field(default_factory=Counter)
    generated: int = 0
    cumulative_logprob: float = 0.0
    finish: Finish | None = None

    @property
    def missing(self) -> int:
        """Tokens that are still to be computed: one while it writes, more while it reads."""
        return len(self.tokens) - self.computed


def new_request(tokens: list[int], most: int, parameters: Parameters, sink: Sink, order: int) -> Request:
    """A request with its n outputs; `most` is what each may generate at most."""
    request = Request(len(tokens), most, parameters, sink)
    for index in range(parameters.n):
        # Outputs of one seeded request must differ from each other, and be the same in the next run.
        seed = None if parameters.seed is None else [parameters.seed % (1 << 64), index]
        text, generator = OutputText(parameters.stop), np.random.default_rng(seed)
        request.sequences.append(Sequence(request, list(tokens), text, generator, order + index))
    return request
