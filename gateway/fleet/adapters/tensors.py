"""Tensors to and from Triton's `infer`, always as raw data: the request is written here from what has been checked, so
that nothing of what a client sent reaches Triton as it came.

Source: docs/protocol/extension_binary_data.md of triton-inference-server.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from gateway.core.errors import UpstreamFailed
from gateway.core.tensor import ITEM_BYTES, Tensor, unpack_strings
from gateway.fleet.tensors import BrokenTensors
from gateway.wire.kserve_infer import Scalar

MAX_STRINGS = 1 << 18
"""Strings of one output: each is looked at here."""

_encode = msgspec.json.Encoder().encode


class Asked(Struct, frozen=True):
    """One request for tensors."""

    tensors: Sequence[Tensor]
    outputs: Sequence[str]
    """The outputs that are wanted."""
    parameters: Mapping[str, Scalar]


class _Parameters(Struct):
    binary_data_size: Annotated[int, Meta(ge=0)]


class _Output(Struct):
    name: str
    datatype: str
    shape: tuple[Annotated[int, Meta(ge=0)], ...]
    parameters: _Parameters


class _Answer(Struct):
    outputs: list[_Output]


_decode = msgspec.json.Decoder(_Answer).decode


def request(asked: Asked) -> tuple[bytes, int]:
    """The body, and how long its JSON is."""
    header = _encode(
        {
            "inputs": [
                {
                    "name": tensor.name,
                    "datatype": tensor.datatype,
                    "shape": tensor.shape,
                    "parameters": {"binary_data_size": len(tensor.data)},
                }
                for tensor in asked.tensors
            ],
            "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in asked.outputs],
            "parameters": asked.parameters,
        }
    )
    return b"".join([header, *(tensor.data for tensor in asked.tensors)]), len(header)


def answer(body: bytes, header_length: int | None) -> tuple[Tensor, ...]:
    """The tensors in an answer. Raises UpstreamFailed when it cannot be read."""
    try:
        return tuple(_tensors(body, header_length))
    except (msgspec.DecodeError, UnicodeDecodeError, BrokenTensors) as problem:
        raise UpstreamFailed(
            "The model's server sent an answer that cannot be read.", detail="not KServe's infer"
        ) from problem


def _tensors(body: bytes, header_length: int | None) -> list[Tensor]:
    at = len(body) if header_length is None else header_length
    told, found = _decode(body[:at]).outputs, []
    for output in told:
        end = at + output.parameters.binary_data_size
        tensor = Tensor(output.name, output.datatype, output.shape, body[at:end])
        _check(tensor, whole=end <= len(body))
        found.append(tensor)
        at = end
    return found


def _check(tensor: Tensor, *, whole: bool) -> None:
    """Raises BrokenTensors."""
    if tensor.datatype == "BYTES":
        if tensor.elements > MAX_STRINGS:
            raise BrokenTensors("too many strings")
        try:
            unpack_strings(tensor.data, tensor.elements)
        except ValueError as problem:
            raise BrokenTensors(str(problem)) from problem
    elif len(tensor.data) != tensor.elements * ITEM_BYTES.get(tensor.datatype, -1):
        raise BrokenTensors("data and shape differ")
    if not whole:
        raise BrokenTensors("data are cut off")
