"""KServe's infer: whatever bytes come, they are read whole or refused; what is sent can be read back."""

import json
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import InvalidRequest, UnsupportedParameter
from gateway.core.tensor import ITEM_BYTES, Tensor, pack_strings
from gateway.wire import kserve_infer
from gateway.wire.kserve_infer import MAX_JSON_BYTES, decode_infer, encode_infer, spell

CODES = kserve_infer._CODES


def one(**fields: Any) -> dict[str, Any]:
    return {"name": "a", "shape": [2], "datatype": "INT32", "data": [1, 2], **fields}


def body(*inputs: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"inputs": inputs or [one()], **fields}).encode()


def refused(data: bytes, length: bytes | None = None) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        decode_infer(data, length)
    return raised.value


def binary(*inputs: tuple[str, str, list[int], bytes], **fields: Any) -> tuple[bytes, bytes]:
    """(body, header length) of inputs in raw data."""
    told = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(data)}}
        for name, kind, shape, data in inputs
    ]
    header = json.dumps({"inputs": told, **fields}).encode()
    return header + b"".join(data for *_, data in inputs), b"%d" % len(header)


# -- no crash, no over-read


@settings(max_examples=300)
@given(
    data=st.binary(max_size=300), length=st.none() | st.binary(max_size=12) | st.integers(-5, 400).map(b"%d".__mod__)
)
def test_any_bytes_are_read_or_refused(data: bytes, length: bytes | None) -> None:
    try:
        decode_infer(data, length)
    except InvalidRequest as problem:
        assert problem.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
INPUTS = st.fixed_dictionaries(
    {
        "name": st.text(max_size=3) | JSON,
        "shape": st.lists(st.integers(-2, 5) | st.just(2**31 - 1), max_size=4) | JSON,
        "datatype": st.sampled_from([*ITEM_BYTES, "BYTES", "FP8"]),
    },
    optional={
        "data": JSON | st.lists(st.integers(-300, 300), max_size=6) | st.lists(st.text(max_size=3), max_size=6),
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-3, 40), "other": JSON}),
    },
)


@settings(max_examples=500)
@given(
    inputs=st.lists(INPUTS, max_size=3),
    raw=st.binary(max_size=60),
    off=st.integers(-3, 3),
    outputs=JSON | st.just([{"name": "x", "parameters": {"binary_data": True}}]),
)
def test_every_tensor_that_is_read_has_just_the_data_that_its_shape_says(
    inputs: list[Any], raw: bytes, off: int, outputs: Any
) -> None:
    header = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    try:
        request = decode_infer(header + raw, b"%d" % max(0, len(header) + off))
    except InvalidRequest:
        return
    for tensor in request.tensors:
        if tensor.datatype == "BYTES":
            assert len(spell(tensor)) == tensor.elements
        else:
            assert len(tensor.data) == tensor.elements * ITEM_BYTES[tensor.datatype]


NUMBERS = {
    "BOOL": st.booleans(),
    **{kind: st.integers(-(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1)
       for kind, size in ITEM_BYTES.items() if kind.startswith("INT")},
    **{kind: st.integers(0, 2 ** (8 * size) - 1) for kind, size in ITEM_BYTES.items() if kind.startswith("UINT")},
    "FP16": st.floats(width=16, allow_nan=False, allow_infinity=False),
    "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "FP64": st.floats(width=64, allow_nan=False, allow_infinity=False),
}  # fmt: skip


@given(st.data())
def test_json_and_raw_data_mean_the_same_tensor(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(list(NUMBERS)))
    rows = data.draw(st.lists(st.lists(NUMBERS[kind], min_size=3, max_size=3), min_size=1, max_size=3))
    flat = [value for row in rows for value in row]
    raw = struct.pack(f"<{len(flat)}{CODES[kind]}", *flat)
    fields = {"datatype": kind, "shape": [len(rows), 3]}
    nested = decode_infer(body(one(**fields, data=rows)), None)
    assert decode_infer(body(one(**fields, data=flat)), None) == nested
    assert decode_infer(*binary(("a", kind, [len(rows), 3], raw))) == nested
    (tensor,) = nested.tensors
    assert (tensor.data, spell(tensor)) == (raw, flat)


@given(st.lists(st.text(max_size=5), min_size=1, max_size=5))
def test_strings_too(texts: list[str]) -> None:
    kept = [text for text in texts if text.isprintable()] or ["x"]
    raw = pack_strings([text.encode() for text in kept])
    told = decode_infer(body(one(datatype="BYTES", shape=[len(kept)], data=kept)), None)
    assert decode_infer(*binary(("a", "BYTES", [len(kept)], raw))) == told
    assert spell(told.tensors[0]) == kept


# -- what is refused, by name


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (body(one(data=[1])), "has 1 elements; the shape says 2"),
        (body(one(data=[[1], [2], [3]])), "has 3 elements"),
        (body(one(data=[1, 2.5])), "not of type INT32"),
        (body(one(data=[1, True])), "not of type INT32"),
        (body(one(data=[1, 2**40])), "out of the range of INT32"),
        (body(one(datatype="FP16", data=[1, 1e9])), "out of the range of FP16"),
        (body(one(datatype="BF16")), "send it as binary data"),
        (body(one(datatype="BYTES")), "strings"),
        (body(one(datatype="FP8")), "use one of BOOL"),
        (body(one(shape=[-1])), "'inputs[0].shape[0]'"),
        (body(one(shape=[1] * 17)), "inputs[0].shape"),
        (body(one(), one()), "names a tensor twice"),
        (body(outputs=[{"name": "x"}, {"name": "x"}]), "names a tensor twice"),
        (body(one(parameters={"binary_data_size": 8})), "either in 'data' or as binary data"),
        (json.dumps({"inputs": []}).encode(), "inputs"),
        (json.dumps({"inputs": [{"name": "a", "shape": [1], "datatype": "INT8"}]}).encode(), "either in 'data'"),
        (body(parameters={"binary_data_output": 1}), "binary_data_output"),
        (body(parameters={"x": [1]}), "parameters.x"),
        (body(one(parameters={"binary_data_size": True}, data=[1, 2])), "binary_data_size"),
        (body().replace(b"[1, 2]", b"[" * 10_000 + b"]" * 10_000), "nested too deeply"),
        (b"{", "not valid JSON"),
    ],
)
def test_a_request_that_cannot_be_is_told_what_is_wrong(data: bytes, words: str) -> None:
    assert words in refused(data).message


@pytest.mark.parametrize(
    ("data", "param"),
    [
        (body(one(parameters={"shared_memory_region": "r"})), "inputs[0].parameters.shared_memory_region"),
        (body(one(parameters={"shared_memory_offset": 1})), "inputs[0].parameters.shared_memory_offset"),
        (body(outputs=[{"name": "x", "parameters": {"shared_memory_byte_size": 1}}]),
         "outputs[0].parameters.shared_memory_byte_size"),
        (body(parameters={"shared_memory_region": "r"}), "parameters.shared_memory_region"),
        (body(outputs=[{"name": "x", "parameters": {"classification": 3}}]), "outputs[0].parameters.classification"),
        (body(one(parameters={"other": 1})), "inputs[0].parameters.other"),
        (body(extra=1), "extra"),
        (body(one(extra=1)), "inputs[0].extra"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(data: bytes, param: str) -> None:
    error = refused(data)
    assert isinstance(error, UnsupportedParameter)
    assert error.param == param


@pytest.mark.parametrize("length", [b"", b"-1", b"99999", b"1e2", b"0x10", b" 5", b"9" * 5000, "٣".encode()])
def test_a_header_length_that_is_none_is_refused(length: bytes) -> None:
    assert "Inference-Header-Content-Length" in refused(body(), length).message


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((("a", "INT32", [2], bytes(7)),), "has 7 bytes; 2 elements of INT32 are 8"),
        ((("a", "INT32", [2**31 - 1, 2**31 - 1], bytes(8)),), "has 8 bytes"),
        ((("a", "BYTES", [2], pack_strings([b"x"])),), "fewer strings"),
        ((("a", "BYTES", [1], pack_strings([b"x", b"y"])),), "more data"),
        ((("a", "BYTES", [16_385], bytes(4)),), "at most 16384"),
    ],
)
def test_raw_data_must_be_what_the_shape_says(given: tuple[Any, ...], words: str) -> None:
    assert words in refused(*binary(*given)).message


def test_sizes_that_do_not_add_up_are_refused() -> None:
    data, length = binary(("a", "INT32", [2], bytes(8)))
    assert "1 bytes stand behind" in refused(data + b"x", length).message
    assert "7 are left" in refused(data[:-1], length).message


def test_large_tensors_must_come_as_raw_data() -> None:
    large = body(one(shape=[MAX_JSON_BYTES], data=[0] * MAX_JSON_BYTES))
    assert "binary data" in refused(large).message


# -- the answer

OUTPUTS = (
    Tensor("n", "INT32", (2,), struct.pack("<2i", 1, -2)),
    Tensor("s", "BYTES", (1,), pack_strings([b"\xff"])),
    Tensor("h", "BF16", (2,), struct.pack("<2H", 0x3F80, 0xC000)),
)


def test_an_answer_is_json_or_raw_data_for_each_output_as_it_was_asked_for() -> None:
    wanted = [{"name": "n", "parameters": {"binary_data": True}}, {"name": "s"}, {"name": "h"}]
    asked = decode_infer(body(id="i", outputs=wanted), None)
    data, length = encode_infer("m", asked, OUTPUTS)
    told = json.loads(data[:length])
    assert told == {
        "model_name": "m",
        "id": "i",
        "outputs": [
            {"name": "n", "datatype": "INT32", "shape": [2], "parameters": {"binary_data_size": 8}},
            {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["\ufffd"]},
            {"name": "h", "datatype": "BF16", "shape": [2], "data": [1.0, -2.0]},
        ],
    }
    assert data[length:] == OUTPUTS[0].data


def test_an_answer_without_raw_data_has_no_header_length_and_one_with_nothing_else_has() -> None:
    assert encode_infer("m", decode_infer(body(), None), OUTPUTS)[1] is None
    data, length = encode_infer("m", decode_infer(body(parameters={"binary_data_output": True}), None), OUTPUTS)
    assert length is not None
    assert data[length:] == b"".join(tensor.data for tensor in OUTPUTS)


def test_an_answer_too_large_to_spell_is_refused_with_what_to_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kserve_infer, "MAX_JSON_ELEMENTS", 3)
    with pytest.raises(InvalidRequest, match="binary_data_output"):
        encode_infer("m", decode_infer(body(), None), OUTPUTS)
    encode_infer("m", decode_infer(body(parameters={"binary_data_output": True}), None), OUTPUTS)


def test_an_error_never_repeats_a_value() -> None:
    error = refused(msgspec.json.encode({"inputs": [{"name": "a", "shape": "secret words", "datatype": "INT8"}]}))
    assert "secret" not in error.message
