"""Triton's python backend over the engine: tensors in, tensors out, exactly as Triton's vLLM backend has them.

`execute` only enqueues; the engine's thread computes, and another thread answers through the response senders. This is
the only file here that imports Triton.
"""

import json
import os
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# The stub puts this folder on the path only when the model is loaded the usual way; be sure of it.
sys.path.insert(0, str(Path(__file__).parent))

from tinyllm.engine import Engine, Limits, QueueFull
from tinyllm.parameters import BadRequest, parse_parameters
from tinyllm.requests import Piece, PromptTokens
from tinyllm.tokenizer import Vocabulary
from tinyllm.transformer import Transformer
from tinyllm.weights import read_weights

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
USAGE_EVERY_S = 0.05
RETURNED = ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")


class TritonPythonModel:
    """The class that the stub looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load, and start the engine. `args` is Triton's; a bad configuration ends the load with its reason."""
        folder = Path(__file__).parent.parent
        limits = read_limits(json.loads(args["model_config"])["parameters"])
        # The threads take turns this often; at Python's 5 ms every token sent would wait for the engine's next pause.
        sys.setswitchinterval(0.0005)
        self._engine = Engine(
            Transformer(read_weights(folder), limits.kv_blocks, limits.block_size, limits.max_model_len),
            Vocabulary(folder / "tokenizer.json"),
            Metrics({"model": args["model_name"], "version": args["model_version"]}),
            limits,
            # Without its engine this process would take requests and never answer: better that the supervisor sees
            # it dead and starts Triton again.
            on_death=lambda: os._exit(70),
        )
        self._engine.start()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._submit(request, sender)
            except BadRequest as problem:
                _refuse(sender, str(problem), pb_utils.TritonError.INVALID_ARG)
            except QueueFull as problem:
                _refuse(sender, str(problem), pb_utils.TritonError.UNAVAILABLE)

    def finalize(self) -> None:
        self._engine.stop()

    def _submit(self, request: Any, sender: Any) -> None:
        prompt = _text(request, "text_input") or ""
        stream = _flag(request, "stream", default=False)
        exclude = _flag(request, "exclude_input_in_output", default=stream)
        if stream and not exclude:
            raise BadRequest("When streaming, `exclude_input_in_output` = False is not allowed.")
        parameters = parse_parameters(_text(request, "sampling_parameters"))
        returned = [name for name in RETURNED if _flag(request, f"return_{name}", default=False)]
        prefix = "" if exclude else prompt
        self._engine.submit(prompt, parameters, Reply(sender, stream, prefix, returned))


class Reply:
    """A request's answer on its way to Triton: each step as it comes, or all of it at the end."""

    def __init__(self, sender: Any, stream: bool, prefix: str, returned: list[str]) -> None:
        self._sender = sender
        self._stream = stream
        self._prefix = prefix
        self._returned = returned
        self._whole: list[Piece] | None = None

    def cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())

    def send(self, prompt: PromptTokens, pieces: list[Piece], last: bool) -> None:
        if self._stream:
            self._send(prompt, pieces, last)
            return
        if self._whole is None:
            self._whole = [Piece(self._prefix) for _ in pieces]
        for whole, piece in zip(self._whole, pieces, strict=True):
            whole.add(piece)
        if last:
            self._send(prompt, self._whole, last)

    def drop(self) -> None:
        _refuse(self._sender, "Request was cancelled", pb_utils.TritonError.CANCELLED)

    def fail(self) -> None:
        _refuse(self._sender, "The engine failed on this request", pb_utils.TritonError.INTERNAL)

    def _send(self, prompt: PromptTokens, pieces: list[Piece], last: bool) -> None:
        tensors = [_strings("text_output", [piece.text for piece in pieces])]
        tensors += [_tensor(name, prompt, pieces) for name in self._returned]
        if "num_input_tokens" in self._returned:  # ours, beside vLLM's: what the prefix cache spared of them
            tensors.append(pb_utils.Tensor("num_cached_tokens", np.array([prompt.cached], np.uint32)))
        self._sender.send(pb_utils.InferenceResponse(output_tensors=tensors), flags=FINAL if last else 0)


class Metrics:
    """The engine's counters, under vLLM's names, on Triton's metrics port."""

    def __init__(self, labels: dict[str, str]) -> None:
        counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        named = (
            ("vllm:prompt_tokens_total", "Number of prompt tokens of requests let in.", counter),
            ("vllm:prompt_tokens_cached_total", "Number of prompt tokens that the prefix cache spared.", counter),
            ("vllm:generation_tokens_total", "Number of generation tokens processed.", counter),
            ("vllm:num_preemptions_total", "Number of times that a sequence gave up its KV blocks.", counter),
            ("vllm:num_requests_running", "Number of requests currently running.", gauge),
            ("vllm:num_requests_waiting", "Number of requests waiting to be processed.", gauge),
            ("vllm:kv_cache_usage_perc", "KV cache usage; 1 means that every block is held.", gauge),
        )
        # The families are kept because a family that is collected takes its metrics with it.
        self._families = [pb_utils.MetricFamily(name=n, description=d, kind=kind) for n, d, kind in named]
        metrics = (family.Metric(labels=labels) for family in self._families)
        self._prompt, self._cached, self._generated, self._preemptions, self._running, self._waiting, self._usage = (
            metrics
        )
        self._load = (0, 0, 0.0)
        self._told_at = 0.0

    def prompt(self, tokens: int, cached: int) -> None:
        """See Counters."""
        self._prompt.increment(tokens)
        if cached:
            self._cached.increment(cached)

    def generated(self, tokens: int) -> None:
        """See Counters."""
        if tokens:
            self._generated.increment(tokens)

    def preempted(self) -> None:
        """See Counters."""
        self._preemptions.increment(1)

    def load(self, running: int, waiting: int, kv_usage: float) -> None:
        """See Counters. Each gauge crosses to the server's process: told when it changes, and usage not too often."""
        now, (ran, waited, _) = time.monotonic(), self._load
        if (running, waiting) == (ran, waited) and now - self._told_at < USAGE_EVERY_S:
            return
        told, self._load, self._told_at = self._load, (running, waiting, kv_usage), now
        for gauge, before, value in zip((self._running, self._waiting, self._usage), told, self._load, strict=True):
            if before != value:
                gauge.set(value)


def read_limits(given: dict[str, dict[str, str]]) -> Limits:
    """The engine's limits from config.pbtxt; a parameter that is not there keeps its default."""
    told = {name: value["string_value"] for name, value in given.items()}
    sizes = {field.name: int(told[field.name]) for field in fields(Limits) if field.type is int and field.name in told}
    return Limits(token_ms=float(told.get("token_ms", 0)), **sizes)


def _tensor(name: str, prompt: PromptTokens, pieces: list[Piece]) -> Any:
    if name == "finish_reason":
        return _strings(name, [str(piece.finish) for piece in pieces])  # unfinished: the string "None", as vLLM
    if name == "logprobs":
        return _strings(name, [_logprobs(piece) for piece in pieces])
    if name == "cumulative_logprob":
        return pb_utils.Tensor(name, np.array([piece.cumulative_logprob for piece in pieces], np.float32))
    if name == "num_input_tokens":
        return pb_utils.Tensor(name, np.array([prompt.whole], np.uint32))
    return pb_utils.Tensor(name, np.array([piece.tokens for piece in pieces], np.uint32))


def _logprobs(piece: Piece) -> str:
    if piece.logprobs is None:
        return "null"
    return json.dumps(
        [
            {
                token: {"logprob": told.logprob, "rank": told.rank, "decoded_token": told.decoded_token}
                for token, told in alternatives.items()
            }
            for alternatives in piece.logprobs
        ]
    )


def _strings(name: str, values: list[str]) -> Any:
    return pb_utils.Tensor(name, np.array([value.encode() for value in values], np.object_))


def _text(request: Any, name: str) -> str | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    value = tensor.as_numpy()[0]
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError as problem:
        raise BadRequest(f"{name} is not valid UTF-8") from problem


def _flag(request: Any, name: str, *, default: bool) -> bool:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return default if tensor is None else bool(tensor.as_numpy()[0])


def _refuse(sender: Any, message: str, code: int) -> None:
    error = pb_utils.TritonError(message, code)
    sender.send(pb_utils.InferenceResponse(error=error), flags=FINAL)
