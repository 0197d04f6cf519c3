"""Sampling parameters: the JSON of the tensor `sampling_parameters`, checked the way vLLM's SamplingParams does.

What is unknown or out of range is an error, never dropped: a gateway must not believe that it was honoured.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_LOGPROBS = 20
MAX_OUTPUTS = 16


class BadRequest(Exception):
    """The request cannot be served as it stands; the message is for its sender and holds none of the prompt."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """How one request is sampled. Defaults are vLLM's."""

    max_tokens: int | None = 16
    """Most tokens of each output; None: as many as the context holds."""
    min_tokens: int = 0
    temperature: float = 1.0
    """0: greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 or -1: all tokens."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    """Outputs of this request."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None
    """How many of the likeliest tokens are told with each token; None: no logprobs at all."""
    ignore_eos: bool = False


def parse_parameters(text: str | None) -> Parameters:
    """The parameters in `text`, a JSON object; without any text the defaults. Raises BadRequest."""
    try:
        values = json.loads(text) if text else {}
    except (ValueError, RecursionError) as problem:  # the second: a thousand brackets in each other
        raise BadRequest("sampling_parameters is not valid JSON") from problem
    if not isinstance(values, dict):
        raise BadRequest("sampling_parameters must be a JSON object")
    if unknown := sorted(set(values) - set(_READERS)):
        raise BadRequest(f"unexpected sampling parameter {unknown[0]!r}")
    parameters = Parameters(**{name: _READERS[name](name, value) for name, value in values.items()})
    if parameters.max_tokens is not None and parameters.min_tokens > parameters.max_tokens:
        raise BadRequest("min_tokens must not be greater than max_tokens")
    if parameters.temperature == 0 and parameters.n > 1:
        raise BadRequest("n must be 1 when using greedy sampling")
    return parameters


Reader = Callable[[str, Any], Any]


def _whole(low: int, high: int, none: bool = False) -> Reader:
    def read(name: str, value: Any) -> int | None:
        if value is None and none:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise BadRequest(f"{name} must be an integer from {low} to {high}")
        return value

    return read


def _number(low: float, high: float, above: bool = False) -> Reader:
    def read(name: str, value: Any) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high or (above and value == low):  # NaN fails the comparison
            raise BadRequest(f"{name} must be a number from {low} to {high}{', but not ' + str(low) if above else ''}")
        return float(value)

    return read


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(f"{name} must be true or false")
    return value


def _stop(name: str, value: Any) -> tuple[str, ...]:
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise BadRequest(f"{name} must be a string or a list of strings, none of them empty")
    return tuple(texts)


_READERS: dict[str, Reader] = {
    "max_tokens": _whole(1, 1 << 31, none=True),
    "min_tokens": _whole(0, 1 << 31),
    "temperature": _number(0.0, 100.0),
    "top_p": _number(0.0, 1.0, above=True),
    "top_k": _whole(-1, 1 << 31),
    "seed": _whole(-(1 << 63), (1 << 63) - 1, none=True),
    "stop": _stop,
    "n": _whole(1, MAX_OUTPUTS),
    "presence_penalty": _number(-2.0, 2.0),
    "frequency_penalty": _number(-2.0, 2.0),
    "logprobs": _whole(0, MAX_LOGPROBS, none=True),
    "ignore_eos": _flag,
}
