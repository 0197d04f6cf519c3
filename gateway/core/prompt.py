"""The neutral form of every request: whatever its endpoint and spelling, rules and limits see this and nothing else."""

from typing import Literal

import msgspec

from gateway.core.tensor import Tensor

Endpoint = Literal["chat", "completions", "embeddings", "generate", "infer"]


class Message(msgspec.Struct, frozen=True, gc=False):
    """One turn of a chat, its parts already joined to one text."""

    role: str
    content: str


class Sampling(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How to choose tokens; None leaves the choice to the model's default."""

    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    """How many alternatives to report beside each chosen token; None: no log probabilities at all."""
    logit_bias: dict[str, float] | None = None


class Prompt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request: the messages of a chat, or one or several plain texts, or tensors (whose strings a model with a
    tokenizer reads as texts)."""

    endpoint: Endpoint
    model: str
    messages: tuple[Message, ...] = ()
    texts: tuple[str, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    """The client's cap on output tokens of each choice."""
    max_tokens_name: str = "max_tokens"
    """What the client called it."""
    n: int = 1
    """Choices for each text."""
    stream: bool = False
    include_usage: bool = False
    end_user: str | None = None
