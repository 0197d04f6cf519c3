"""KServe v2's infer: bytes -> tensors -> bytes, in JSON or with the binary tensor extension.

Sources: KServe, "Open Inference Protocol (V2)"; docs/protocol/extension_binary_data.md of triton-inference-server: the
first `inference-header-content-length` bytes of a body are its JSON, behind it stand the raw data of those tensors
whose `binary_data_size` says so, in their order. Nothing of what a client sent goes on as it came: what is not known
here is refused, what is known is read whole.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from gateway.core.errors import InvalidRequest, UnsupportedParameter
from gateway.core.tensor import ITEM_BYTES, Tensor, pack_strings, unpack_strings
from gateway.wire.reading import LONGEST_NAME, decode

MAX_TENSORS = 64
"""Inputs, and outputs, of one request."""
MAX_DIMENSIONS = 16
MAX_STRINGS = 16_384
"""Elements of one BYTES tensor."""
MAX_JSON_BYTES = 256 << 10
"""JSON in a request: reading numbers in words takes its time on the event loop, raw data takes none."""
MAX_JSON_ELEMENTS = 65_536
"""Numbers and strings that an answer spells out."""

Scalar = str | bool | int | float
Parameters = dict[str, Any]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Size = Annotated[int, Meta(ge=1, le=2**31 - 1)]
_CODES = {
    "BOOL": "?", "INT8": "b", "UINT8": "B", "INT16": "h", "UINT16": "H", "FP16": "e", "INT32": "i", "UINT32": "I",
    "FP32": "f", "INT64": "q", "UINT64": "Q", "FP64": "d",
}  # fmt: skip
"""Of Python's struct. BF16 has none, and no spelling in JSON."""


class Input(Struct, forbid_unknown_fields=True):
    name: Name
    shape: Annotated[tuple[Size, ...], Meta(max_length=MAX_DIMENSIONS)]
    datatype: str
    parameters: Parameters | None = None
    data: msgspec.Raw = msgspec.Raw()
    """Empty: there is none."""


class Output(Struct, forbid_unknown_fields=True):
    name: Name
    parameters: Parameters | None = None


class InferBody(Struct, forbid_unknown_fields=True):
    inputs: Annotated[list[Input], Meta(min_length=1, max_length=MAX_TENSORS)]
    id: Annotated[str, Meta(max_length=200)] | None = None
    parameters: Parameters | None = None
    outputs: Annotated[list[Output], Meta(max_length=MAX_TENSORS)] | None = None


class InferRequest(Struct, frozen=True):
    """A request, read and whole."""

    tensors: tuple[Tensor, ...]
    id: str | None
    parameters: Mapping[str, Scalar]
    """Those that the model itself may understand."""
    outputs: Mapping[str, bool] | None
    """Wanted outputs -> as raw data; None: all of them."""
    binary: bool
    """Outputs that are not named come as raw data."""


_body = msgspec.json.Decoder(InferBody)
_strings = msgspec.json.Decoder(Any)
_encode = msgspec.json.Encoder().encode


def decode_infer(body: bytes, header_length: bytes | None) -> InferRequest:
    """The request in a body, whose JSON is `header_length` bytes long (None: all of it). Raises InvalidRequest."""
    header, raw = _split(body, header_length)
    if len(header) > MAX_JSON_BYTES:
        raise InvalidRequest(
            f"The JSON of this request has {len(header)} bytes; at most {MAX_JSON_BYTES} are taken. Send large tensors "
            "as binary data (binary_data_size, with the header Inference-Header-Content-Length)."
        )
    request = decode(_body, header)
    tensors, at = [], 0
    for index, given in enumerate(request.inputs):
        tensor, taken = _tensor(given, raw[at:], f"inputs[{index}]")
        tensors.append(tensor)
        at += taken
    if at != len(raw):
        raise InvalidRequest(f"{len(raw) - at} bytes stand behind the last tensor's data; the sizes do not add up.")
    _once([tensor.name for tensor in tensors], "inputs")
    parameters = dict(request.parameters or {})
    binary = _flag(parameters.pop("binary_data_output", None), "parameters.binary_data_output") or False
    for name, value in parameters.items():
        _refuse_memory(name, "parameters")
        if not isinstance(value, Scalar):
            raise InvalidRequest(f"Invalid value for 'parameters.{name[:LONGEST_NAME]}': Expected a string, number or "
                                 "boolean.", param=f"parameters.{name[:LONGEST_NAME]}")  # fmt: skip
    return InferRequest(tuple(tensors), request.id, parameters, _outputs(request.outputs, binary), binary)


def _split(body: bytes, header_length: bytes | None) -> tuple[bytes, memoryview]:
    if header_length is None:
        return body, memoryview(b"")
    # isdigit() of bytes knows ASCII only; the length bounds what int() has to read.
    length = int(header_length) if header_length.isdigit() and len(header_length) <= 10 else -1
    if not 0 <= length <= len(body):
        raise InvalidRequest(
            f"Inference-Header-Content-Length must be a number of bytes within the body, which has {len(body)}."
        )
    return body[:length], memoryview(body)[length:]


def _tensor(given: Input, raw: memoryview, where: str) -> tuple[Tensor, int]:
    """The tensor, and how many bytes of `raw`, which begins with its data if it has any there, belong to it."""
    if given.datatype != "BYTES" and given.datatype not in ITEM_BYTES:
        raise InvalidRequest(
            f"Invalid value for '{where}.datatype': use one of {', '.join(ITEM_BYTES)} or BYTES.",
            param=f"{where}.datatype",
        )
    count = 1
    for dimension in given.shape:
        count *= dimension
    size = _binary_size(given.parameters or {}, where)
    if (size is None) != bool(bytes(given.data)):
        raise InvalidRequest(
            f"'{where}' must have its contents either in 'data' or as binary data with 'binary_data_size'.", param=where
        )
    if size is None:
        return Tensor(given.name, given.datatype, given.shape, _from_json(given, count, where)), 0
    if size > len(raw):
        raise InvalidRequest(f"'{where}' says that it has {size} bytes; {len(raw)} are left in the body.", param=where)
    data = bytes(raw[:size])
    _check_raw(given.datatype, count, data, where)
    return Tensor(given.name, given.datatype, given.shape, data), size


def _binary_size(parameters: Parameters, where: str) -> int | None:
    found = None
    for name, value in parameters.items():
        _refuse_memory(name, f"{where}.parameters")
        if name != "binary_data_size":
            raise _unsupported(f"{where}.parameters.{name}")
        if type(value) is not int or value < 0:
            raise InvalidRequest(
                f"Invalid value for '{where}.parameters.binary_data_size': Expected a number of bytes.", param=where
            )
        found = value
    return found


def _check_raw(datatype: str, count: int, data: bytes, where: str) -> None:
    if datatype != "BYTES":
        if len(data) != count * ITEM_BYTES[datatype]:
            raise InvalidRequest(
                f"'{where}' has {len(data)} bytes; {count} elements of {datatype} are {count * ITEM_BYTES[datatype]}.",
                param=where,
            )
        return
    if count > MAX_STRINGS:
        raise InvalidRequest(f"'{where}' has {count} strings; at most {MAX_STRINGS} are taken.", param=where)
    try:
        unpack_strings(data, count)
    except ValueError as problem:
        raise InvalidRequest(f"The data of '{where}' is broken: {problem}.", param=where) from problem


def _from_json(given: Input, count: int, where: str) -> bytes:
    """Raw data of contents in JSON: elements in row-major order, nested as the shape says or flat."""
    elements = _flat(decode(_strings, given.data), len(given.shape))
    if len(elements) != count:
        raise InvalidRequest(f"'{where}.data' has {len(elements)} elements; the shape says {count}.", param=where)
    if given.datatype == "BYTES":
        if count > MAX_STRINGS or not all(type(element) is str for element in elements):
            raise InvalidRequest(f"'{where}.data' must be at most {MAX_STRINGS} strings.", param=where)
        return pack_strings([element.encode() for element in elements])
    if given.datatype not in _CODES:
        raise InvalidRequest(f"'{where}' is of type {given.datatype}: send it as binary data.", param=where)
    return pack_numbers(given.datatype, elements, where)


def pack_numbers(datatype: str, elements: Sequence[Any], where: str) -> bytes:
    """Raw data of numbers. Raises InvalidRequest where one is none of the datatype's."""
    kinds = {bool} if datatype == "BOOL" else {int, float} if datatype.startswith("FP") else {int}
    if not set(map(type, elements)) <= kinds:
        raise InvalidRequest(f"'{where}.data' has elements that are not of type {datatype}.", param=where)
    try:
        return struct.pack(f"<{len(elements)}{_CODES[datatype]}", *elements)
    except (struct.error, OverflowError) as problem:
        raise InvalidRequest(f"'{where}.data' has a number out of the range of {datatype}.", param=where) from problem


def _flat(value: Any, depth: int) -> list[Any]:
    """The elements of an array that is nested at most `depth` deep."""
    elements = value if isinstance(value, list) else [value]
    for _ in range(depth - 1):
        if not elements or type(elements[0]) is not list:
            break
        elements = [element for row in elements for element in (row if type(row) is list else [row])]
    return elements


def _outputs(given: list[Output] | None, binary: bool) -> dict[str, bool] | None:
    if not given:
        return None
    _once([output.name for output in given], "outputs")
    wanted = {}
    for index, output in enumerate(given):
        wanted[output.name], where = binary, f"outputs[{index}].parameters"
        for name, value in (output.parameters or {}).items():
            _refuse_memory(name, where)
            if name != "binary_data":
                raise _unsupported(f"{where}.{name}")
            wanted[output.name] = bool(_flag(value, f"{where}.binary_data"))
    return wanted


def _flag(value: Any, where: str) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"Invalid value for '{where}': Expected `bool`.", param=where)
    return value


def _once(names: list[str], where: str) -> None:
    if len(names) != len(set(names)):
        raise InvalidRequest(f"'{where}' names a tensor twice.", param=where)


def _refuse_memory(name: str, where: str) -> None:
    if name.startswith("shared_memory"):
        raise UnsupportedParameter(
            f"Unsupported parameter: '{where}.{name[:LONGEST_NAME]}': tensors come in the body, not in shared memory.",
            param=f"{where}.{name[:LONGEST_NAME]}",
        )


def _unsupported(where: str) -> UnsupportedParameter:
    where = where[:LONGEST_NAME]
    return UnsupportedParameter(f"Unsupported parameter: '{where}' is not known here.", param=where)


# -- the answer


def encode_infer(model: str, request: InferRequest, outputs: Sequence[Tensor]) -> tuple[bytes, int | None]:
    """The body of an answer, and how long its JSON is where raw data stand behind it. Raises InvalidRequest where the
    client wants more in JSON than can be spelled out."""
    wanted = request.outputs or {}
    as_raw = {tensor.name for tensor in outputs if wanted.get(tensor.name, request.binary)}
    if sum(tensor.elements for tensor in outputs if tensor.name not in as_raw) > MAX_JSON_ELEMENTS:
        raise InvalidRequest(
            f"The answer has more than {MAX_JSON_ELEMENTS} elements: ask for it as binary data (binary_data_output)."
        )
    told, raw = [], []
    for tensor in outputs:
        described = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if tensor.name in as_raw:
            told.append({**described, "parameters": {"binary_data_size": len(tensor.data)}})
            raw.append(tensor.data)
        else:
            told.append({**described, "data": spell(tensor)})
    identity = {} if request.id is None else {"id": request.id}
    header = _encode({"model_name": model, **identity, "outputs": told})
    return (b"".join([header, *raw]), len(header)) if as_raw else (header, None)


def spell(tensor: Tensor) -> list[Any]:
    """A tensor's elements for JSON, flat. Strings that are not UTF-8 are mended with U+FFFD."""
    if tensor.datatype == "BYTES":
        return [element.decode(errors="replace") for element in unpack_strings(tensor.data, tensor.elements)]
    if tensor.datatype == "BF16":  # the upper half of an FP32
        halves = struct.unpack(f"<{tensor.elements}H", tensor.data)
        return list(
            struct.unpack(f"<{len(halves)}f", struct.pack(f"<{len(halves)}I", *(half << 16 for half in halves)))
        )
    return list(struct.unpack(f"<{tensor.elements}{_CODES[tensor.datatype]}", tensor.data))
