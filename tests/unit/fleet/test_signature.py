"""What a tensor model is, as its Triton tells it, held against its fleet entry."""

import copy
from typing import Any

import msgspec
import pytest

from gateway.fleet.file import Embeddings, TensorModel, TritonModel
from gateway.fleet.signature import TensorSpec, problems, read_signature

METADATA: dict[str, Any] = {
    "name": "m",
    "versions": ["1"],
    "inputs": [
        {"name": "text", "datatype": "BYTES", "shape": ["-1", "1"]},
        {"name": "scale", "datatype": "FP32", "shape": [-1, 1]},
    ],
    "outputs": [{"name": "embedding", "datatype": "FP32", "shape": [-1, 8]}],
}
CONFIG: dict[str, Any] = {
    "name": "m",
    "max_batch_size": 4,
    "input": [{"name": "text"}, {"name": "scale", "optional": True}],
    "model_transaction_policy": {"decoupled": False},
}


GOOD = Embeddings(input="text", output="embedding", dimensions=8)


def model(**fields: Any) -> TensorModel:
    return TensorModel(name="m", triton=TritonModel("m"), endpoints=("a",), **fields)


def found(entry: TensorModel, **config: Any) -> list[str]:
    return problems(read_signature(copy.deepcopy(METADATA), {**CONFIG, **config}, entry), entry)


def test_a_signature_says_names_shapes_batches_and_what_may_be_left_out() -> None:
    signature = read_signature(copy.deepcopy(METADATA), CONFIG, model())
    assert signature.inputs["text"] == TensorSpec("text", "BYTES", (-1, 1))
    assert set(signature.outputs) == {"embedding"}
    assert (signature.optional, signature.max_batch, signature.decoupled) == (frozenset({"scale"}), 4, False)


def test_only_what_the_fleet_file_lists_is_there_for_clients() -> None:
    signature = read_signature(copy.deepcopy(METADATA), CONFIG, model(inputs=("text",)))
    assert set(signature.inputs) == {"text"}


@pytest.mark.parametrize(
    ("shape", "fits"), [((3, 1), True), ((1, 1), True), ((3, 2), False), ((3,), False), ((3, 1, 1), False)]
)
def test_a_dimension_of_minus_one_is_any(shape: tuple[int, ...], fits: bool) -> None:
    assert TensorSpec("text", "BYTES", (-1, 1)).admits(shape) is fits


@pytest.mark.parametrize(
    ("entry", "config", "words"),
    [
        (model(inputs=("other",)), {}, "no input other"),
        (model(outputs=("other",)), {}, "no output other"),
        (model(embeddings=Embeddings(input="scale", output="embedding", dimensions=8)), {}, "no input scale of type"),
        (model(embeddings=Embeddings(input="text", output="embedding", dimensions=9)), {}, "with 9 numbers a row"),
        (model(embeddings=Embeddings(input="text", output="text", dimensions=8)), {}, "no output text"),
        (model(embeddings=GOOD), {"input": []}, "needs the input scale besides"),
        (model(embeddings=GOOD), {"model_transaction_policy": {"decoupled": True}}, "decoupled"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_sentence(entry: TensorModel, config: dict[str, Any], words: str) -> None:
    assert words in found(entry, **config)[0]


def test_a_model_that_fits_has_no_problems() -> None:
    assert found(model(embeddings=GOOD)) == []


@pytest.mark.parametrize(
    "inputs", [[{"name": "a"}] * 3, [{"name": "x" * 300, "datatype": "FP32", "shape": []}], 7,
               [{"name": "a", "datatype": "FP32", "shape": [1]}] * 129]
)  # fmt: skip
def test_metadata_that_is_none_or_too_much_is_refused(inputs: Any) -> None:
    with pytest.raises((msgspec.ValidationError, TypeError)):
        read_signature({"inputs": inputs}, CONFIG, model())
