"""The real tritonclient and OpenAI client, pointed at Catflap, reach a real Triton's tensors, embeddings and text."""

import base64
import http.client
import json
import sqlite3
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.support.stack import Stack, eventually, running_stack
from tests.support.tensors import CONTEXT, tensor_fleet
from tests.support.tokens import demo_tokens

PROMPT = "<|user|>\nTell me about cats\n<|assistant|>\n"
TRITONS_ROUTES = [
    ("GET", "/v2"),
    ("GET", "/v2/models/stats"),
    ("GET", "/v2/models/demo/config"),
    ("GET", "/v2/models/demo/stats"),
    ("GET", "/v2/models/demo/versions/1"),
    ("GET", "/v2/models/demo/versions/1/ready"),
    ("GET", "/v2/models/demo/versions/1/config"),
    ("GET", "/v2/models/demo/versions/1/stats"),
    ("GET", "/v2/models/demo/trace/setting"),
    ("GET", "/v2/trace/setting"),
    ("GET", "/v2/logging"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("GET", "/v2/systemsharedmemory/region/r/status"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("GET", "/v2/cudasharedmemory/region/r/status"),
    ("GET", "/metrics"),
    ("POST", "/v2/models/demo/versions/1/infer"),
    ("POST", "/v2/models/demo/versions/1/generate"),
    ("POST", "/v2/models/demo/versions/1/generate_stream"),
    ("POST", "/v2/models/demo/trace/setting"),
    ("POST", "/v2/models/demo/load"),
    ("POST", "/v2/models/demo/unload"),
    ("POST", "/v2/trace/setting"),
    ("POST", "/v2/logging"),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/demo/load"),
    ("POST", "/v2/repository/models/demo/unload"),
    ("POST", "/v2/systemsharedmemory/region/r/register"),
    ("POST", "/v2/systemsharedmemory/region/r/unregister"),
    ("POST", "/v2/systemsharedmemory/unregister"),
    ("POST", "/v2/cudasharedmemory/region/r/register"),
    ("POST", "/v2/cudasharedmemory/region/r/unregister"),
    ("POST", "/v2/cudasharedmemory/unregister"),
    ("POST", "/v2/xpusharedmemory/region/r/register"),
    ("POST", "/invocations"),
    ("GET", "/ping"),
    ("GET", "/v2/models/demo/../../logging"),
    ("POST", "/v2//repository/index"),
    ("POST", "/v2/models/demo/infer/../../../repository/index"),
    ("POST", "/v2/models/%2e%2e/repository/index"),
]
"""All of the HTTP interface of Triton 2.51 (src/http_server.cc, src/sagemaker_server.cc) that is not Catflap's, and
spellings of it."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("tensors")
    with running_stack(folder, CATFLAP_FLEET=str(tensor_fleet(folder)), CATFLAP_MAX_BODY_BYTES="65536") as running:
        yield running


@pytest.fixture
def client(stack: Stack) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(stack.url.removeprefix("http://"), network_timeout=20) as made:
        yield made


def key(stack: Stack) -> dict[str, str]:
    """Fresh each time: the client writes into what it is given."""
    return {"authorization": f"Bearer {stack.key}"}


def vector(name: str, *values: float, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput(name, [len(values)], "FP32")
    made.set_data_from_numpy(np.array(values, np.float32), binary_data=binary)
    return made


def strings(name: str, shape: list[int], *values: str, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput(name, shape, "BYTES")
    made.set_data_from_numpy(np.array([v.encode() for v in values], np.object_).reshape(shape), binary_data=binary)
    return made


def post(stack: Stack, path: str, body: object, **headers: str) -> tuple[int, str, str]:
    """Status, request id and text of an answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(stack.url + path, data, {**key(stack), **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers["x-request-id"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["x-request-id"], error.read().decode()


def events_told(text: str) -> list[dict[str, Any]]:
    return [json.loads(part.removeprefix("data: ")) for part in text.split("\n\n") if part]


def last_event(stack: Stack, endpoint: str, known: set[str]) -> dict[str, Any]:
    """The one event of an endpoint that is not known yet, as the ledger has it."""

    def look() -> dict[str, Any] | None:
        with closing(sqlite3.connect(f"file:{stack.data_dir / 'catflap.db'}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            rows = database.execute("select * from request_event where endpoint = ?", (endpoint,)).fetchall()
        new = [dict(row) for row in rows if row["request"] not in known]
        assert len(new) <= 1
        return new[0] if new else None

    return eventually(look, 15, "no new event in the ledger")


def known_events(stack: Stack) -> set[str]:
    with closing(sqlite3.connect(f"file:{stack.data_dir / 'catflap.db'}?mode=ro", uri=True)) as database:
        return {row[0] for row in database.execute("select request from request_event")}


# -- tritonclient


def test_tritonclient_sees_a_live_and_ready_server_and_its_models(
    client: triton.InferenceServerClient, stack: Stack
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    for model in ("demo", "demo-embed", "arithmetic", "repeat"):
        assert client.is_model_ready(model, headers=key(stack))
    assert not client.is_model_ready("nothing", headers=key(stack))
    assert not client.is_model_ready("demo")  # without a key


def test_metadata_names_the_tensors_that_a_client_may_use_and_nothing_else(
    client: triton.InferenceServerClient, stack: Stack
) -> None:
    told = client.get_model_metadata("arithmetic", headers=key(stack))
    assert told == {
        "name": "arithmetic",
        "platform": "catflap",
        "inputs": [
            {"name": "a", "datatype": "FP32", "shape": [-1]},
            {"name": "b", "datatype": "FP32", "shape": [-1]},
            {"name": "order", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [  # `product` is not on the fleet file's list
            {"name": "sum", "datatype": "FP32", "shape": [-1]},
            {"name": "words", "datatype": "BYTES", "shape": [-1]},
        ],
    }
    text = client.get_model_metadata("demo", headers=key(stack))
    assert {one["name"] for one in text["outputs"]} >= {"text_output"}
    with pytest.raises(InferenceServerException, match="does not exist"):
        client.get_model_metadata("nothing", headers=key(stack))


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tensors_go_there_and_back_as_binary_and_as_json(
    client: triton.InferenceServerClient, stack: Stack, binary_in: bool, binary_out: bool
) -> None:
    words = ["mew", "", "καλημέρα"]
    inputs = [
        vector("a", 1, 2.5, -3, binary=binary_in),
        vector("b", 10, 20, 30, binary=binary_in),
        strings("order", [3], *words, binary=binary_in),
    ]
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("words", "sum")]
    result = client.infer("arithmetic", inputs, outputs=outputs, request_id="mine", headers=key(stack))
    assert result.as_numpy("sum").tolist() == [11, 22.5, 27]
    found = [word.decode() if isinstance(word, bytes) else word for word in result.as_numpy("words")]
    assert found == words[::-1]
    assert [one["name"] for one in result.get_response()["outputs"]] == ["words", "sum"]
    assert (result.get_response()["id"], result.get_response()["model_name"]) == ("mine", "arithmetic")


def test_without_named_outputs_all_that_are_allowed_come(client: triton.InferenceServerClient, stack: Stack) -> None:
    result = client.infer("arithmetic", [vector("a", 1), vector("b", 2)], headers=key(stack))
    assert {one["name"] for one in result.get_response()["outputs"]} == {"sum", "words"}
    assert result.as_numpy("sum").tolist() == [3]
    assert result.as_numpy("words").tolist() == []


@pytest.mark.parametrize(
    ("inputs", "more", "status", "words"),
    [
        ([vector("a", 1)], {}, "400", "Missing input 'b'"),
        ([vector("a", 1), vector("b", 1), vector("c", 1)], {}, "400", "no input 'c'"),
        ([vector("a", 1), strings("b", [1], "x")], {}, "400", "of type FP32, not BYTES"),
        ([vector("a", 1), vector("b", 1)], {"outputs": [triton.InferRequestedOutput("product")]}, "400", "no output"),
        ([vector("a", 1), vector("b", 1)], {"priority": 1}, "400", "parameters.priority"),
        ([vector("a", 1), vector("b", 1)], {"timeout": 1}, "400", "parameters.timeout"),
        ([vector("a", 1), vector("b", 1)], {"sequence_id": 1, "sequence_start": True}, "400", "sequence_"),
        ([vector("a", 1), vector("b", 1)], {"parameters": {"mine": "x"}}, "400", "parameters.mine"),
        ([vector("a", 1), vector("b", 1)], {"model_version": "1"}, "404", "does not exist"),
        ([vector("a", 1), vector("b", 1)], {"request_compression_algorithm": "gzip"}, "400", "Content-Encoding"),
        ([vector("a", *range(20_000)), vector("b", 1)], {}, "413", "bytes"),
    ],
)
def test_what_does_not_fit_is_an_inference_server_exception_with_our_sentence(
    client: triton.InferenceServerClient, stack: Stack, inputs: list[Any], more: dict[str, Any], status: str, words: str
) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.infer("arithmetic", inputs, headers=key(stack), **more)
    assert refused.value.status() == status
    assert words in refused.value.message()


def test_tritons_own_words_never_come_through(client: triton.InferenceServerClient, stack: Stack) -> None:
    failing = [vector("a", 1), vector("b", 1), strings("order", [1], "fail")]
    different = [vector("a", 1, 2), vector("b", 1, 2, 3)]  # numpy raises in the model
    for inputs in (failing, different):
        with pytest.raises(InferenceServerException) as failed:
            client.infer("arithmetic", inputs, headers=key(stack))
        assert failed.value.status() == "502"
        assert failed.value.message() == "The model's server refused the request."


def test_without_a_key_there_are_no_tensors(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.infer("arithmetic", [vector("a", 1), vector("b", 1)])
    assert refused.value.status() == "401"


def test_shared_memory_is_refused_by_name_wherever_it_stands(
    client: triton.InferenceServerClient, stack: Stack
) -> None:
    memory = triton.InferInput("a", [1], "FP32")
    memory.set_shared_memory("region", 4)
    into = triton.InferRequestedOutput("sum")
    into.set_shared_memory("region", 4)
    for inputs, outputs in (([memory, vector("b", 1)], None), ([vector("a", 1), vector("b", 1)], [into])):
        with pytest.raises(InferenceServerException, match=r"shared_memory_.*not in shared memory"):
            client.infer("arithmetic", inputs, outputs=outputs, headers=key(stack))


@pytest.mark.parametrize(("method", "path"), TRITONS_ROUTES)
def test_nothing_of_tritons_control_surface_is_reachable(stack: Stack, method: str, path: str) -> None:
    host = stack.url.removeprefix("http://")
    with closing(http.client.HTTPConnection(host, timeout=10)) as connection:
        connection.request(method, path, b"{}" if method == "POST" else None, key(stack))
        answer = connection.getresponse()
        assert answer.status == 404, answer.read()
        assert json.loads(answer.read())["error"]


# -- what it costs


def test_tensors_are_charged_by_request_and_element_as_the_fleet_file_says(
    client: triton.InferenceServerClient, stack: Stack
) -> None:
    known = known_events(stack)
    inputs = [vector("a", *range(10)), vector("b", *range(10)), strings("order", [2], "seven..", "")]
    client.infer("arithmetic", inputs, headers=key(stack))
    event = last_event(stack, "infer", known)
    # 3 + 0.5 * (10 + 10 numbers + 7 bytes of strings), rounded up
    assert (event["prompt_tokens"], event["completion_tokens"], event["outcome"]) == (17, 0, "completed")
    assert (event["model"], event["reserved_tokens"], event["status"]) == ("arithmetic", 17, 200)


def test_embeddings_cost_the_same_by_every_way_in(client: triton.InferenceServerClient, stack: Stack) -> None:
    """Field notes, section 3, item 15: no limit is passed through another endpoint or another spelling."""
    texts = ["Tell me about cats", "Hello", "καλημέρα"]
    wanted = sum(demo_tokens(text) for text in texts)
    known = known_events(stack)
    with openai.OpenAI(api_key=stack.key, base_url=f"{stack.url}/v1", max_retries=0) as other:
        told = other.embeddings.create(model="demo-embed", input=texts)
    assert told.usage.prompt_tokens == told.usage.total_tokens == wanted
    assert last_event(stack, "embeddings", known)["prompt_tokens"] == wanted
    for binary in (True, False):
        known = known_events(stack)
        result = client.infer("demo-embed", [strings("text", [3, 1], *texts, binary=binary)], headers=key(stack))
        assert last_event(stack, "infer", known)["prompt_tokens"] == wanted
        assert np.allclose(result.as_numpy("embedding"), [one.embedding for one in told.data], atol=1e-6)


def test_a_text_model_cannot_be_reached_past_its_token_limits(
    client: triton.InferenceServerClient, stack: Stack
) -> None:
    """Field notes, section 3, item 15, again: infer and generate with every place that a cap can hide in."""
    before = stack.generated_tokens()
    ask = [strings("text_input", [1], PROMPT), strings("sampling_parameters", [1], '{"max_tokens": 1000}')]
    with pytest.raises(InferenceServerException, match=r"/v2/models/demo/generate\."):
        client.infer("demo", ask, headers=key(stack))
    assert stack.generated_tokens() == before
    small = stack.new_key("free")
    for body in (
        {"max_tokens": 1, "parameters": {"max_tokens": 900}, "sampling_parameters": '{"max_tokens": 900}'},
        {"parameters": {"max_tokens": 1}, "sampling_parameters": {"max_tokens": 900}, "max_tokens": 900},
        {"sampling_parameters": '{"max_tokens": 1}', "max_tokens": 900},
    ):
        status, request, text = post(
            stack, "/v2/models/demo/generate", {"text_input": PROMPT, **body}, authorization=f"Bearer {small}"
        )
        assert status == 200, text
        assert stack.event(request)["completion_tokens"] == 1
    for field in ("min_tokens", "n", "best_of", "truncate_prompt_tokens", "ignore_eos"):
        status, _, text = post(
            stack, "/v2/models/demo/generate", {"text_input": "x", "sampling_parameters": json.dumps({field: 900})}
        )
        assert (status, json.loads(text)["param"].rpartition(".")[2]) == (400, field)


# -- generate and generate_stream


def test_generate_answers_in_kserves_shape_with_the_usage_that_the_ledger_has(stack: Stack) -> None:
    body = {
        "text_input": PROMPT,
        "exclude_input_in_output": True,
        "max_tokens": 12,
        "temperature": 0,
        **dict.fromkeys(("return_num_input_tokens", "return_num_output_tokens", "return_finish_reason"), True),
    }
    status, request, text = post(stack, "/v2/models/demo/generate", body)
    told = json.loads(text)
    assert status == 200
    assert told["model_name"] == "demo"
    event = stack.event(request)
    assert (event["endpoint"], event["stream"]) == ("generate", 0)
    assert (told["num_input_tokens"], told["num_output_tokens"]) == (event["prompt_tokens"], event["completion_tokens"])
    assert event["prompt_tokens"] == demo_tokens(PROMPT)
    assert told["finish_reason"] in ("stop", "length")
    with openai.OpenAI(api_key=stack.key, base_url=f"{stack.url}/v1", max_retries=0) as other:
        whole = other.completions.create(model="demo", prompt=PROMPT, max_tokens=12, temperature=0)
    assert told["text_output"] == whole.choices[0].text
    echoed = json.loads(post(stack, "/v2/models/demo/generate", {**body, "exclude_input_in_output": False})[2])
    assert echoed["text_output"] == PROMPT + whole.choices[0].text


def test_generate_stream_says_the_same_in_server_sent_events_without_openais_end(stack: Stack) -> None:
    body = {"text_input": PROMPT, "parameters": {"stream": True, "temperature": 0}, "max_tokens": 12}
    _, request, text = post(stack, "/v2/models/demo/generate_stream", body)
    assert "[DONE]" not in text
    told = events_told(text)
    assert len(told) > 3
    assert set(told[0]) == {"model_name", "text_output"}
    one = events_told(post(stack, "/v2/models/demo/generate_stream", {**body, "parameters": {"stream": False,
        "temperature": 0}, "exclude_input_in_output": True})[2])  # fmt: skip
    assert len(one) == 1
    assert "".join(part["text_output"] for part in told) == one[0]["text_output"]
    assert stack.event(request)["stream"] == 1


def test_errors_of_generate_are_in_kserves_shape(stack: Stack) -> None:
    status, _, text = post(stack, "/v2/models/demo/generate", {"text_input": PROMPT, "max_tokens": 10**6})
    told = json.loads(text)
    assert status == 400
    assert told["error"].startswith("'max_tokens' is too large")
    assert told.keys() == {"error", "type", "param", "code"}


def test_a_client_that_leaves_a_generate_stream_stops_the_model(stack: Stack) -> None:
    before = stack.generated_tokens()
    request = urllib.request.Request(
        f"{stack.url}/v2/models/demo/generate_stream",
        json.dumps({"text_input": "Once", "max_tokens": 900, "stream": True}).encode(),
        key(stack),
    )
    answer = urllib.request.urlopen(request, timeout=30)
    answer.readline()
    answer.close()
    event = stack.event(answer.headers["x-request-id"])
    assert event["outcome"] in ("cancelled", "completed")  # the model may have been quicker
    assert stack.generated_tokens() - before <= int(str(event["completion_tokens"])) + 10
    assert stack.held() == 0


# -- decoupled models


def test_a_decoupled_model_streams_its_tensors_and_is_charged(stack: Stack) -> None:
    status, request, text = post(stack, "/v2/models/repeat/generate_stream", {"times": 4})
    assert status == 200
    assert events_told(text) == [{"model_name": "repeat", "number": number} for number in range(4)]
    event = stack.event(request)
    assert (event["endpoint"], event["stream"], event["prompt_tokens"]) == ("generate", 1, 7)
    for path, body in (("generate", {"times": 1}), ("infer", {"inputs": [
        {"name": "times", "shape": [1], "datatype": "INT32", "data": [1]}]})):  # fmt: skip
        status, _, text = post(stack, f"/v2/models/repeat/{path}", body)
        assert (status, "use generate_stream" in json.loads(text)["error"]) == (400, True)


@pytest.mark.parametrize(
    "body", [{"times": 1, "shared_memory_region": "r"}, {"times": "1"}, {"times": [1, 2]}, {"times": 1.5}, {}, [1]]
)
def test_a_decoupled_model_gets_only_its_own_inputs(stack: Stack, body: object) -> None:
    status, _, text = post(stack, "/v2/models/repeat/generate_stream", body)
    assert status == 400, text


def test_a_client_that_leaves_a_decoupled_model_stops_it(stack: Stack) -> None:
    def sent() -> float:
        return next(v for k, v in stack.scrape("CATFLAP_TRITON_METRICS_PORT").items() if "repeat_sent_total" in k)

    before = sent()
    request = urllib.request.Request(
        f"{stack.url}/v2/models/repeat/generate_stream",
        json.dumps({"times": 1000, "pause_ms": 20}).encode(),
        key(stack),
    )
    answer = urllib.request.urlopen(request, timeout=30)
    answer.readline()
    answer.close()
    event = stack.event(answer.headers["x-request-id"])
    assert (event["outcome"], event["prompt_tokens"]) == ("cancelled", 7)
    assert sent() - before < 100
    assert stack.held() == 0


# -- embeddings


def test_embeddings_are_the_same_as_floats_and_in_base64(stack: Stack) -> None:
    bodies = [{"model": "demo-embed", "input": "Tell me about cats", "encoding_format": form}
              for form in ("float", "base64")]  # fmt: skip
    plain, packed = (json.loads(post(stack, "/v1/embeddings", body)[2])["data"][0]["embedding"] for body in bodies)
    assert len(plain) == 128
    assert struct.unpack("<128f", base64.b64decode(packed)) == pytest.approx(plain, abs=1e-7)
    assert sum(value * value for value in plain) == pytest.approx(1, abs=1e-5)


def test_more_texts_than_a_batch_come_back_in_their_order(stack: Stack) -> None:
    texts = [f"number {number}" for number in range(70)]
    with openai.OpenAI(api_key=stack.key, base_url=f"{stack.url}/v1", max_retries=0) as client:
        told = client.embeddings.create(model="demo-embed", input=texts)
        alone = client.embeddings.create(model="demo-embed", input=texts[69])
    assert [one.index for one in told.data] == list(range(70))
    assert np.allclose(told.data[69].embedding, alone.data[0].embedding, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"model": "demo"}, 400, "does not make embeddings"),
        ({"model": "arithmetic"}, 400, "does not make embeddings"),
        ({"model": "nothing"}, 404, "does not exist"),
        ({"dimensions": 64}, 400, "'dimensions'"),
        ({"input": [1, 2, 3]}, 400, "token ids"),
        ({"input": [[1], [2]]}, 400, "token ids"),
        ({"input": []}, 400, "'input'"),
        ({"input": ["a", ""]}, 400, "input[1]"),
        ({"input": "cat " * (CONTEXT + 1)}, 400, f"at most {CONTEXT} tokens"),
        ({"encoding_format": "hex"}, 400, "'encoding_format'"),
        ({"prompt": "x"}, 400, "'prompt'"),
    ],
)
def test_an_embeddings_request_that_cannot_be_is_refused_with_one_sentence(
    stack: Stack, fields: dict[str, Any], status: int, words: str
) -> None:
    found, _, text = post(stack, "/v1/embeddings", {"model": "demo-embed", "input": "hi", **fields})
    assert found == status
    assert words in json.loads(text)["error"]["message"]


def test_tensor_models_take_no_chats(stack: Stack) -> None:
    body = {"model": "demo-embed", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi"}
    for path, field in (("/v1/chat/completions", "messages"), ("/v1/completions", "prompt")):
        status, _, text = post(stack, path, {"model": "demo-embed", field: body[field]})
        assert (status, "use /v1/embeddings" in json.loads(text)["error"]["message"]) == (400, True)


def test_the_fleets_tensor_models_are_listed_and_fit_their_triton(stack: Stack, tmp_path: Path) -> None:
    with openai.OpenAI(api_key=stack.key, base_url=f"{stack.url}/v1", max_retries=0) as client:
        assert {model.id for model in client.models.list()} == {"demo", "demo-embed", "arithmetic", "repeat"}
    assert stack.run("fleet", "check").returncode == 0
    fleet = Path(stack.environment["CATFLAP_FLEET"])
    wrong = fleet.with_name("wrong.yaml")
    wrong.write_text(fleet.read_text().replace("dimensions: 128", "dimensions: 64"))
    stack.environment["CATFLAP_FLEET"] = str(wrong)
    try:
        checked = stack.run("fleet", "check")
    finally:
        stack.environment["CATFLAP_FLEET"] = str(fleet)
    assert checked.returncode == 1
    assert "no output embedding of type FP32 with 64 numbers a row" in checked.stdout
