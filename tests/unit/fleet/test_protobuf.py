"""Tensors to and from protobuf: what goes out comes in again, and nothing that comes in breaks the gateway."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from gateway.core.delta import Delta
from gateway.core.errors import UpstreamFailed
from gateway.core.prompt import Sampling
from gateway.fleet.adapters.vllm import INPUTS, Decoder, request
from gateway.fleet.tensors import BrokenTensors, Inputs
from gateway.fleet.transports.protobuf import pack, unpack


def answer(*tensors: tuple[str, str, bytes]) -> Any:
    """A response of these outputs."""
    response = service_pb2.ModelInferResponse()
    for name, datatype, raw in tensors:
        response.outputs.add(name=name, datatype=datatype, shape=(1,))
        response.raw_output_contents.append(raw)
    return response


def test_a_request_carries_every_input_with_the_contracts_type_and_asks_for_the_end() -> None:
    packed = pack("demo", "3", request("猫", Sampling(seed=1), 9, 0))
    assert (packed.model_name, packed.model_version) == ("demo", "3")
    assert packed.parameters["triton_enable_empty_final_response"].bool_param
    assert {tensor.name: tensor.datatype for tensor in packed.inputs}.items() <= INPUTS.items()
    assert all(list(tensor.shape) == [1] for tensor in packed.inputs)
    contents = dict(zip((tensor.name for tensor in packed.inputs), packed.raw_input_contents, strict=True))
    assert contents["text_input"] == b"\x03\x00\x00\x00\xe7\x8c\xab"
    assert contents["stream"] == b"\x01"


values = st.one_of(
    st.tuples(st.just("BYTES"), st.text()),
    st.tuples(st.just("BOOL"), st.booleans()),
    st.tuples(st.just("INT32"), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.just("UINT64"), st.integers(0, 2**64 - 1)),
    st.tuples(st.just("FP64"), st.floats(allow_nan=False)),
)


@given(st.dictionaries(st.text(min_size=1, max_size=5), values))
def test_what_is_packed_is_unpacked_as_it_was(tensors: dict[str, tuple[str, Any]]) -> None:
    inputs = Inputs({n: value for n, (_, value) in tensors.items()}, {n: kind for n, (kind, _) in tensors.items()})
    packed = pack("m", "", inputs)
    raw = zip(packed.inputs, packed.raw_input_contents, strict=True)
    assert unpack(answer(*((tensor.name, tensor.datatype, data) for tensor, data in raw))) == inputs.values


def test_a_response_becomes_the_same_delta_as_over_http() -> None:
    tensors = unpack(
        answer(
            ("text_output", "BYTES", b"\x03\x00\x00\x00\xe7\x8c\xab"),
            ("finish_reason", "BYTES", b"\x06\x00\x00\x00length"),
            ("num_input_tokens", "UINT32", b"\x05\x00\x00\x00"),
            ("num_output_tokens", "UINT32", b"\x01\x00\x00\x00"),
        )
    )
    assert Decoder(2, None).delta(tensors) == Delta("猫", 2, "length", 5, 1)


@pytest.mark.parametrize(
    "tensor",
    [
        ("text_output", "BYTES", b""),
        ("text_output", "BYTES", b"\x09\x00\x00\x00cat"),
        ("text_output", "BYTES", b"\x01\x00\x00\x00\xff"),
        ("num_output_tokens", "UINT32", b"\x01"),
        ("num_output_tokens", "FP16", b"\x01\x00"),
    ],
)
def test_broken_contents_are_told_apart(tensor: tuple[str, str, bytes]) -> None:
    with pytest.raises(BrokenTensors):
        unpack(answer(tensor))


def test_outputs_without_contents_are_broken() -> None:
    response = answer(("text_output", "BYTES", b"\x00\x00\x00\x00"))
    del response.raw_output_contents[:]
    with pytest.raises(BrokenTensors):
        unpack(response)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["text_output", "finish_reason", "num_input_tokens", "error"]),
            st.sampled_from(["BYTES", "UINT32", "INT64", "FP32", "BOOL", "FP16"]),
            st.binary(max_size=12),
        ),
        max_size=4,
    )
)
def test_any_tensors_are_a_delta_or_the_servers_failure(tensors: list[tuple[str, str, bytes]]) -> None:
    try:
        told = Decoder(0, 2).delta(unpack(answer(*tensors)))
    except (BrokenTensors, UpstreamFailed):
        return
    assert isinstance(told.text, str)
    assert isinstance(told.prompt_tokens, int)
