"""The vLLM backend's tensor contract.

Source: triton-inference-server/vllm_backend, src/utils/request.py (November 2026). Its traps: without
`exclude_input_in_output` an answer that is not streamed begins with the prompt; text and output counts are deltas; the
input count comes with every response; an unfinished `finish_reason` is the string "None". `n` is not used here:
outputs carry no index and vLLM reports them one at a time, so each choice is a generation of its own.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, convert

from gateway.core.delta import Delta, TokenLogprob
from gateway.core.errors import UpstreamFailed
from gateway.core.prompt import Sampling
from gateway.fleet.tensors import Inputs, Response, Value

INPUTS = {
    "text_input": "BYTES",
    "stream": "BOOL",
    "sampling_parameters": "BYTES",
    "exclude_input_in_output": "BOOL",
    "return_finish_reason": "BOOL",
    "return_num_input_tokens": "BOOL",
    "return_num_output_tokens": "BOOL",
    "return_logprobs": "BOOL",
}
OUTPUTS = {
    "text_output": "BYTES",
    "finish_reason": "BYTES",
    "num_input_tokens": "UINT32",
    "num_output_tokens": "UINT32",
    "logprobs": "BYTES",
}
"""Tensors that a model must offer, with their datatypes."""


Count = Annotated[int, Meta(ge=0)]


class _Event(Struct, gc=False):
    """One response; over HTTP a tensor of one element comes as a scalar."""

    text_output: str = ""
    finish_reason: str = "None"
    num_input_tokens: Count = 0
    num_output_tokens: Count = 0
    num_cached_tokens: Count = 0
    """Ours, beside vLLM's: prompt tokens that the prefix cache spared; 0 from a model that does not say."""
    logprobs: str = "null"
    error: str | None = None


class _Arrays(Struct):
    """The same where tensors of one element come as arrays."""

    text_output: Annotated[list[str], Meta(min_length=1)]
    finish_reason: Annotated[list[str], Meta(min_length=1)]
    num_input_tokens: Count | Annotated[list[Count], Meta(min_length=1)] = 0
    num_output_tokens: Count | Annotated[list[Count], Meta(min_length=1)] = 0
    num_cached_tokens: Count | Annotated[list[Count], Meta(min_length=1)] = 0
    logprobs: str | Annotated[list[str], Meta(min_length=1)] = "null"


class _Logprob(Struct):
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


_REASONS = {"stop": "stop", "length": "length"}
_decode = msgspec.json.Decoder(_Event).decode
_decode_arrays = msgspec.json.Decoder(_Arrays).decode
_decode_logprobs = msgspec.json.Decoder(list[dict[str, _Logprob]] | None).decode
_encode = msgspec.json.Encoder().encode
_ALWAYS: dict[str, Value] = {
    "stream": True,
    "exclude_input_in_output": True,
    "return_finish_reason": True,
    "return_num_input_tokens": True,
    "return_num_output_tokens": True,
}


def request(text: str, sampling: Sampling, max_tokens: int, choice: int) -> Inputs:
    """The input tensors for one choice of a prompt. With a seed, each choice gets its own."""
    parameters: dict[str, Any] = {"max_tokens": max_tokens}
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "logprobs"):
        value = getattr(sampling, name)
        if value is not None:
            parameters[name] = value
    if sampling.seed is not None:
        parameters["seed"] = (sampling.seed + choice) % 2**63
    if sampling.stop:
        parameters["stop"] = sampling.stop
    values = {**_ALWAYS, "sampling_parameters": _encode(parameters).decode(), "text_input": text}
    if sampling.logprobs is not None:
        values["return_logprobs"] = True
    return Inputs(values, INPUTS)


class Decoder:
    """Turns one choice's responses into Deltas."""

    def __init__(self, choice: int, logprobs: int | None) -> None:
        self._choice = choice
        self._logprobs = logprobs

    def delta(self, response: Response) -> Delta:
        """The delta in one response. Raises UpstreamFailed when the backend reports an error or breaks its contract."""
        try:
            event = _read(response) if type(response) is bytes else convert(response, _Event)
        except (msgspec.DecodeError, UnicodeDecodeError) as problem:
            raise UpstreamFailed(
                "The model's server sent an answer that cannot be read.", detail="not the vLLM contract"
            ) from problem
        if event.error is not None:
            raise UpstreamFailed("The model's server failed while it answered.", detail="error event in the stream")
        reason = event.finish_reason
        if reason == "abort":
            raise UpstreamFailed("The model's server aborted the answer.", detail="finish_reason abort")
        return Delta(
            event.text_output,
            self._choice,
            None if reason == "None" else _REASONS.get(reason, "stop"),
            event.num_input_tokens,
            event.num_output_tokens,
            min(event.num_cached_tokens, event.num_input_tokens),
            self._told(event.logprobs) if self._logprobs is not None else None,
        )

    def _told(self, text: str) -> tuple[TokenLogprob, ...] | None:
        try:
            tokens = _decode_logprobs(text)
        except msgspec.DecodeError as problem:
            raise UpstreamFailed(
                "The model's server sent log probabilities that cannot be read.", detail="logprobs"
            ) from problem
        return tuple(self._token(alternatives) for alternatives in tokens or () if alternatives)

    def _token(self, alternatives: dict[str, _Logprob]) -> TokenLogprob:
        """vLLM puts the sampled token first, then the best ones by rank."""
        sampled = next(iter(alternatives.values()))
        ranked = sorted(alternatives.values(), key=lambda one: -one.logprob)
        top = tuple((one.decoded_token or "", one.logprob) for one in ranked[: self._logprobs or 0])
        return TokenLogprob(sampled.decoded_token or "", sampled.logprob, top)


def _read(data: bytes) -> _Event:
    """Scalars, which nearly all are, at once; arrays by a second look. Raises msgspec.DecodeError."""
    try:
        return _decode(data)
    except msgspec.ValidationError:
        arrays = msgspec.structs.astuple(_decode_arrays(data))
        return _Event(*(value[0] if isinstance(value, list) else value for value in arrays))
