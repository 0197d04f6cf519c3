"""What tensors count as, and which of them a model takes."""

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import ContextLengthExceeded, InvalidRequest, TooLargeForPlan, UpstreamFailed
from gateway.core.prompt import Prompt
from gateway.core.tensor import ITEM_BYTES, Tensor, pack_strings
from gateway.dataplane import tensors
from gateway.dataplane.tensors import check_inputs, measure_tensors, tensor_prompt
from gateway.fleet.file import Charge, TensorModel, TritonModel
from gateway.fleet.health import Health
from gateway.fleet.models import ServedTensors
from gateway.fleet.signature import Signature, TensorSpec
from gateway.fleet.tokens import ByteCounter
from gateway.limits.plans import Limit
from gateway.limits.weights import Weights
from gateway.wire.kserve_infer import MAX_JSON_BYTES


def served(*, charge: Charge | None = None, tokenizer: bool = False, context: int | None = None) -> ServedTensors:
    entry = TensorModel(
        name="m", triton=TritonModel("m"), endpoints=("a",), charge=charge or Charge(), context_tokens=context
    )
    health: Any = Health.__new__(Health)
    return ServedTensors(entry, ByteCounter() if tokenizer else None, (), health)


def zeros(name: str, shape: tuple[int, ...], datatype: str = "FP32") -> Tensor:
    return Tensor(name, datatype, shape, bytes(ITEM_BYTES[datatype] * math.prod(shape)))


def strings(name: str, *texts: bytes) -> Tensor:
    return Tensor(name, "BYTES", (len(texts),), pack_strings(list(texts)))


def measured(model: ServedTensors, *tensors: Tensor, cap: int | None = None) -> int:
    prompt = tensor_prompt("infer", "m", tensors, model)
    limit = Limit("tokens_per_minute", "key", "k", "tokens", cap or 0, 60_000, 1_000, None, Weights())
    limits = () if cap is None else (limit,)
    found = asyncio.run(measure_tensors(prompt, model.render(prompt), model, 20, limits, asyncio.to_thread))
    assert found.exact
    assert (found.max_tokens, found.ceiling.completion_tokens) == (0, 0)
    return found.ceiling.prompt_tokens


@given(
    request=st.integers(0, 50),
    element=st.integers(0, 5),
    shapes=st.lists(st.lists(st.integers(1, 5), max_size=3).map(tuple), min_size=1, max_size=3),
    texts=st.lists(st.binary(max_size=6), min_size=1, max_size=3),
)
def test_a_request_counts_as_its_charge_and_that_of_its_elements(
    request: int, element: int, shapes: list[tuple[int, ...]], texts: list[bytes]
) -> None:
    model = served(charge=Charge(request=request, element=element))
    tensors = [zeros(f"n{i}", shape) for i, shape in enumerate(shapes)]
    numbers = sum(math.prod(shape) for shape in shapes)
    assert measured(model, *tensors) == request + element * numbers
    letters = max(len(texts), sum(map(len, texts)))
    assert measured(model, *tensors, strings("s", *texts)) == request + element * (numbers + letters)


def test_part_of_a_token_is_a_token() -> None:
    assert measured(served(charge=Charge(element=0.01)), zeros("a", (101,))) == 2


def test_with_a_tokenizer_strings_count_as_their_tokens_and_numbers_as_elements() -> None:
    model = served(charge=Charge(request=1, element=10), tokenizer=True)
    assert measured(model, strings("s", b"four", "é".encode()), zeros("a", (2,))) == 1 + 6 + 20


def test_a_text_that_is_too_long_or_no_text_is_refused() -> None:
    model = served(tokenizer=True, context=5)
    measured(model, strings("s", b"12345"))
    with pytest.raises(ContextLengthExceeded, match="at most 5 tokens of a text; one of yours has at least 6"):
        measured(model, strings("s", b"1", b"123456"))
    with pytest.raises(InvalidRequest, match="UTF-8"):
        measured(model, strings("s", b"\xff"))
    with pytest.raises(InvalidRequest, match="at most 2048"):
        measured(model, strings("s", *[b""] * 2049))


def test_what_is_larger_than_the_limit_could_never_be_admitted() -> None:
    model = served()
    assert measured(model, zeros("a", (10,)), cap=10) == 10
    with pytest.raises(TooLargeForPlan, match="11 tokens, more than the 10"):
        measured(model, zeros("a", (11,)), cap=10)


SIGNATURE = Signature(
    {"a": TensorSpec("a", "FP32", (-1, 2)), "b": TensorSpec("b", "FP32", (-1, 2))}, {}, frozenset({"b"}), 4, False
)


def test_tensors_that_fit_are_taken() -> None:
    check_inputs([zeros("a", (4, 2))], SIGNATURE)
    check_inputs([zeros("b", (3, 2)), zeros("a", (3, 2))], SIGNATURE)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([zeros("b", (1, 2))], "Missing input 'a'"),
        ([zeros("a", (1, 2)), zeros("c", (1, 2))], "no input 'c'"),
        ([zeros("a", (1, 2), "FP64")], "of type FP32, not FP64"),
        ([zeros("a", (1, 3))], "[-1, 2]"),
        ([zeros("a", (5, 2))], "5 rows; at most 4"),
        ([zeros("a", (2, 2)), zeros("b", (3, 2))], "same number of rows"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_with_what_would(tensors: list[Tensor], words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_inputs(tensors, SIGNATURE)
    assert words in refused.value.message


def test_the_neutral_prompt_shows_limits_and_policies_the_texts_of_a_model_that_reads_texts() -> None:
    tensor = strings("s", b"hello")
    assert tensor_prompt("infer", "m", (tensor,), served(tokenizer=True)).texts == ("hello",)
    assert tensor_prompt("infer", "m", (tensor,), served()) == Prompt(endpoint="infer", model="m", tensors=(tensor,))


def test_one_response_of_a_stream_shows_its_wanted_outputs_under_the_public_name() -> None:
    response = b'{"model_name":"insides","model_version":"3","out":[1],"other":2}'
    assert tensors._frame("mine", {"out": None}, response) == b'data: {"model_name":"mine","out":[1]}\n\n'


@pytest.mark.parametrize("response", [b'{"error":"insides"}', b"insides", b"[1]", b"\xff"])
def test_a_response_that_is_an_error_or_none_is_told_in_our_words(response: bytes) -> None:
    with pytest.raises(UpstreamFailed) as failed:
        tensors._frame("mine", {"out": None}, response)
    assert "insides" not in failed.value.message


def test_the_json_of_a_decoupled_models_inputs_is_bounded_as_that_of_infer_is() -> None:
    signature = Signature({"s": TensorSpec("s", "BYTES", (-1,))}, {}, frozenset(), 0, True)
    frame = len(b'{"s":""}')
    fits, beyond = (b'{"s":"%b"}' % (b"x" * (MAX_JSON_BYTES - frame + more)) for more in (0, 1))
    assert tensors._from_fields(fits, signature)[1][0].elements == 1
    with pytest.raises(InvalidRequest, match=f"{MAX_JSON_BYTES + 1} bytes; at most {MAX_JSON_BYTES}"):
        tensors._from_fields(beyond, signature)
