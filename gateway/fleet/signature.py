"""What a live tensor model's tensors are, as its Triton tells it, and how that fits its fleet entry."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gateway.fleet.file import TensorModel, TensorName

MAX_TENSORS = 128
"""Inputs, and outputs, of one model."""
MAX_DIMENSIONS = 16


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output; a dimension of -1 is any."""

    name: TensorName
    datatype: Annotated[str, Meta(max_length=16)]
    shape: Annotated[tuple[int, ...], Meta(max_length=MAX_DIMENSIONS)]

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor may have this shape."""
        return len(shape) == len(self.shape) and all(
            wanted in (-1, given) for wanted, given in zip(self.shape, shape, strict=True)
        )


class Signature(msgspec.Struct, frozen=True):
    """The tensors of a model that clients may use, by name."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    optional: frozenset[str]
    """Inputs that may be left out."""
    max_batch: int
    """The largest first dimension; 0: the model has no batches, its shapes are all there is to say."""
    decoupled: bool
    """It answers a request with any number of responses."""


class _Told(msgspec.Struct, frozen=True):
    inputs: Annotated[list[TensorSpec], Meta(max_length=MAX_TENSORS)] = []
    outputs: Annotated[list[TensorSpec], Meta(max_length=MAX_TENSORS)] = []


class _Optional(msgspec.Struct, frozen=True):
    name: str
    optional: bool = False


class _Policy(msgspec.Struct, frozen=True):
    decoupled: bool = False


class _Config(msgspec.Struct, frozen=True):
    input: Annotated[list[_Optional], Meta(max_length=MAX_TENSORS)] = []
    max_batch_size: int = 0
    model_transaction_policy: _Policy = _Policy()


def read_signature(metadata: Any, config: Any, model: TensorModel) -> Signature:
    """From the decoded JSON of Triton's metadata and configuration. Raises msgspec.ValidationError, a ValueError."""
    told = msgspec.convert(_numbers(metadata), _Told)
    held = msgspec.convert(config, _Config)
    return Signature(
        {one.name: one for one in told.inputs if not model.inputs or one.name in model.inputs},
        {one.name: one for one in told.outputs if not model.outputs or one.name in model.outputs},
        frozenset(one.name for one in held.input if one.optional),
        held.max_batch_size,
        held.model_transaction_policy.decoupled,
    )


def _numbers(metadata: Any) -> Any:
    """Triton writes some dimensions as strings ("-1")."""
    for kind in ("inputs", "outputs"):
        for tensor in metadata.get(kind, ()):
            tensor["shape"] = [int(size) for size in tensor.get("shape", ())]
    return metadata


def problems(signature: Signature, model: TensorModel) -> list[str]:
    """What of a live model does not fit its fleet entry; each a sentence."""
    name, found = model.triton.name, []
    for kind, wanted, there in (
        ("input", model.inputs, signature.inputs),
        ("output", model.outputs, signature.outputs),
    ):
        found += [f"{name} has no {kind} {tensor}." for tensor in wanted if tensor not in there]
    if model.embeddings is not None:
        found += _no_embeddings(signature, model)
    return found


def _no_embeddings(signature: Signature, model: TensorModel) -> list[str]:
    given, name = model.embeddings, model.triton.name
    assert given is not None
    source, result = signature.inputs.get(given.input), signature.outputs.get(given.output)
    found = []
    if source is None or source.datatype != "BYTES" or any(size not in (-1, 1) for size in source.shape[1:]):
        found.append(f"{name} has no input {given.input} of type BYTES with one text a row.")
    if result is None or result.datatype != "FP32" or not result.shape or result.shape[-1] != given.dimensions:
        found.append(f"{name} has no output {given.output} of type FP32 with {given.dimensions} numbers a row.")
    if missing := sorted(set(signature.inputs) - signature.optional - {given.input}):
        found.append(f"{name} needs the input {missing[0]} besides, which no text becomes.")
    if signature.decoupled:
        found.append(f"{name} is decoupled, so it cannot answer for embeddings.")
    return found
