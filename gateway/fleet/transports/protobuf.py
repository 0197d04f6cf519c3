"""Tensors of one element to and from Triton's protobuf messages.

Source: KServe's "Predict Protocol, Version 2", raw tensor contents: little-endian numbers; a BYTES element is its
length in four bytes and then itself.
"""

import struct
from typing import Any

from tritonclient.grpc import service_pb2

from gateway.fleet.tensors import BrokenTensors, Inputs, Tensors, Value

_NUMBERS = {
    "BOOL": struct.Struct("<?"),
    "INT32": struct.Struct("<i"),
    "INT64": struct.Struct("<q"),
    "UINT32": struct.Struct("<I"),
    "UINT64": struct.Struct("<Q"),
    "FP32": struct.Struct("<f"),
    "FP64": struct.Struct("<d"),
}
_LENGTH = struct.Struct("<I")


def pack(model: str, version: str, inputs: Inputs) -> Any:
    """The `ModelInferRequest` of one generation. It asks for a message at the end even when nothing is left to say:
    without it, the end of a decoupled model's answer cannot be told from a pause."""
    request = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    for name, value in inputs.values.items():
        datatype = inputs.datatypes[name]
        request.inputs.add(name=name, datatype=datatype, shape=(1,))
        request.raw_input_contents.append(_packed(datatype, value))
    return request


def unpack(response: Any) -> Tensors:
    """The first element of each output in a `ModelInferResponse`. Raises BrokenTensors."""
    outputs, contents = response.outputs, response.raw_output_contents
    if len(outputs) != len(contents):
        raise BrokenTensors("outputs and their contents differ in number")
    return {output.name: _unpacked(output.datatype, raw) for output, raw in zip(outputs, contents, strict=True)}


def _packed(datatype: str, value: Value) -> bytes:
    if datatype == "BYTES":
        data = str(value).encode()
        return _LENGTH.pack(len(data)) + data
    return _NUMBERS[datatype].pack(value)


def _unpacked(datatype: str, raw: bytes) -> Value:
    try:
        if datatype == "BYTES":
            end = 4 + int.from_bytes(raw[:4], "little")
            if end > len(raw):  # also when the length itself is cut short
                raise BrokenTensors("a string is shorter than it says")
            return raw[4:end].decode()
        found: Value = _NUMBERS[datatype].unpack_from(raw)[0]
    except (KeyError, struct.error, UnicodeDecodeError) as problem:
        raise BrokenTensors(f"a tensor of type {datatype[:16]!r} cannot be read") from problem
    return found
