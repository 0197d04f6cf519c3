"""The fleet file: names, addresses and variables are checked, and each mistake is one sentence."""

import re
from pathlib import Path

import pytest

from gateway.fleet.file import Charge, Cost, FleetError, fleet_schema, parse_fleet, read_fleet

GOOD = """
apiVersion: catflap/v1
kind: Fleet
endpoints:
  - {name: a, http: "http://127.0.0.1:${PORT:-8000}"}
  - {name: b, http: "http://[::1]:8001/"}
models:
  - name: demo
    aliases: [small]
    triton: {name: demo, version: "3"}
    endpoints: [a, b]
    context_tokens: 100
    max_output_tokens: 50
    tokenizer: bytes
"""


def test_a_good_file_is_read_with_its_defaults_and_folder() -> None:
    fleet = parse_fleet(GOOD, "fleet.yaml", "/etc/catflap", {})
    assert [endpoint.address for endpoint in fleet.endpoints] == [("127.0.0.1", 8000), ("::1", 8001)]
    [model] = fleet.models
    assert (model.owned_by, model.adapter, model.abilities, model.chat_template) == ("catflap", "vllm", (), None)
    assert fleet.path("x.json") == Path("/etc/catflap/x.json")


def test_a_grpc_address_is_a_host_and_a_port() -> None:
    text = GOOD.replace("name: b,", 'name: b, transport: grpc, grpc: "[::1]:8002",')
    first, second = parse_fleet(text, "f", ".", {}).endpoints
    assert (first.transport, first.grpc_address) == ("http", None)
    assert (second.transport, second.grpc_address) == ("grpc", ("::1", 8002))


def test_variables_come_from_the_environment_or_their_default() -> None:
    assert parse_fleet(GOOD, "f", ".", {"PORT": "9"}).endpoints[0].address == ("127.0.0.1", 9)
    with pytest.raises(FleetError, match=r"\$\{PORT\}"):
        parse_fleet(GOOD.replace(":-8000", ""), "f", ".", {})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: b", "name: a", "'a' is used twice"),
        ("aliases: [small]", "aliases: [demo]", "'demo' is used twice"),
        ("[a, b]", "[a, c]", "'c', which is not there"),
        ("[a, b]", "[]", "endpoints"),
        ("http://[::1]:8001/", "https://[::1]:8001/", "'b'"),
        ("http://[::1]:8001/", "http://host", "'b'"),
        ("http://[::1]:8001/", "http://host:99999", "'b'"),
        ("http://[::1]:8001/", "http://host:1/path", "'b'"),
        ("http://[::1]:8001/", "http://[::1:1", "'b'"),
        ("name: b,", "name: b, transport: grpc,", "has no grpc address"),
        ("name: b,", "name: b, grpc: host,", "grpc must read HOST:PORT"),
        ("name: b,", 'name: b, grpc: "http://host:1",', "grpc must read HOST:PORT"),
        ("name: b,", 'name: b, grpc: "host:1/x",', "grpc must read HOST:PORT"),
        ("name: b,", "name: b, transport: pigeon,", "pigeon"),
        ("context_tokens: 100", "context_tokens: 0", "context_tokens"),
        ("tokenizer: bytes", "tokenizer: bytes\n    tokeniser: x", "tokeniser"),
        ('version: "3"', "version: x", "version"),
        ("name: demo\n", 'name: "de mo"\n', "name"),
        ("kind: Fleet", "kind: [", "YAML"),
    ],
)
def test_a_mistake_is_told_with_its_place(old: str, new: str, words: str) -> None:
    assert old in GOOD
    with pytest.raises(FleetError) as told:
        parse_fleet(GOOD.replace(old, new, 1), "fleet.yaml", ".", {})
    assert str(told.value).startswith("fleet.yaml")
    assert words in str(told.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="CATFLAP_FLEET"):
        read_fleet(tmp_path / "none.yaml")


def test_a_file_that_is_not_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(FleetError):
        read_fleet(tmp_path / "fleet.yaml")


def test_the_schema_does_not_offer_what_is_filled_in_later() -> None:
    assert "folder" not in str(fleet_schema())


TENSORS = """
tensor_models:
  - name: vectors
    triton: {name: embed}
    endpoints: [a]
    charge: {request: 2, element: 0.5}
    tokenizer: bytes
    context_tokens: 64
    inputs: [text]
    embeddings: {input: text, output: embedding, dimensions: 8}
    cost: {prompt: 0.1}
"""


def test_tensor_models_stand_beside_text_models_with_their_charge_and_cost() -> None:
    fleet = parse_fleet(GOOD + TENSORS, "f", ".", {})
    text, tensors = fleet.served
    assert (text.name, tensors.name) == ("demo", "vectors")
    assert (text.cost, text.kv_bytes_per_token) == (
        Cost(prompt=1, cached=None, output=1, request=0, kv_gib_second=0),
        None,
    )
    [model] = fleet.tensor_models
    assert (model.charge, model.cost) == (Charge(request=2, element=0.5), Cost(prompt=0.1))


def test_a_fleet_may_serve_tensors_alone() -> None:
    text = GOOD[: GOOD.index("models:")] + TENSORS
    assert [model.name for model in parse_fleet(text, "f", ".", {}).served] == ["vectors"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: vectors", "name: small", "'small' is used twice"),
        ("endpoints: [a]\n    charge", "endpoints: [c]\n    charge", "names the endpoint 'c'"),
        ("tokenizer: bytes\n    context_tokens: 64\n    inputs", "context_tokens: 64\n    inputs", "needs a tokenizer"),
        ("tokenizer: bytes\n    context_tokens: 64\n    inputs", "inputs", "embeddings need a tokenizer"),
        ("inputs: [text]", "inputs: [other]", "use the input 'text', which inputs does not list"),
        ("inputs: [text]", "outputs: [other]", "use the output 'embedding', which outputs does not list"),
        ("inputs: [text]", "parameters: [shared_memory_region]", "'shared_memory_region', which clients may never"),
        ("inputs: [text]", "parameters: [sequence_id]", "'sequence_id', which clients may never"),
        ("inputs: [text]", "parameters: [triton_final_response]", "which clients may never"),
        ("element: 0.5", "element: -1", "Expected `float` >= 0"),
        ("prompt: 0.1", "prompt: .nan", "prompt"),
    ],
)
def test_a_tensor_model_that_cannot_be_is_one_sentence(old: str, new: str, words: str) -> None:
    whole = GOOD + TENSORS
    assert old in whole
    with pytest.raises(FleetError, match=re.escape(words)):
        parse_fleet(whole.replace(old, new), "f", ".", {})


def test_a_fleet_without_any_model_is_refused() -> None:
    with pytest.raises(FleetError, match="there are no models"):
        parse_fleet(GOOD[: GOOD.index("models:")], "f", ".", {})
