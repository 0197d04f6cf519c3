"""The demo model on a real Triton keeps the tensor contract of Triton's vLLM backend."""

import json
from collections.abc import Iterator

import pytest

from tests.integration.embedded_fixtures import Triton, need_triton, triton_running, until
from tests.support.tokens import demo_tokens

PROMPT = "<|user|>\nTell me about cats\n<|assistant|>\n"
ALL = {
    "return_finish_reason": True,
    "return_cumulative_logprob": True,
    "return_logprobs": True,
    "return_num_input_tokens": True,
    "return_num_output_tokens": True,
}


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    need_triton()
    with triton_running(tmp_path_factory.mktemp("data")) as running:
        yield running


def test_a_stream_tells_text_and_output_counts_as_deltas_and_repeats_the_input_count(triton: Triton) -> None:
    events = triton.stream(PROMPT, {"max_tokens": 8, "ignore_eos": True}, **ALL)
    assert len(events) == 8
    assert [event["num_output_tokens"] for event in events] == [1] * 8
    assert [event["num_input_tokens"] for event in events] == [demo_tokens(PROMPT)] * 8
    assert [event["finish_reason"] for event in events] == ["None"] * 7 + ["length"]
    assert "".join(event["text_output"] for event in events)
    assert [event["logprobs"] for event in events] == ["null"] * 8


def test_an_answer_reads_like_a_sentence_and_stops_by_itself(triton: Triton) -> None:
    events = triton.stream(PROMPT, {"max_tokens": 500, "seed": 3}, **ALL)
    text = "".join(event["text_output"] for event in events)
    assert text[0].isupper()
    assert text[-1] in ".!?"
    assert " " in text
    assert events[-1]["finish_reason"] == "stop"
    assert sum(event["num_output_tokens"] for event in events) == len(events)  # the end counts as a token
    assert events[-1]["text_output"] == ""


def test_only_what_is_asked_for_is_returned(triton: Triton) -> None:
    (event,) = triton.stream(PROMPT, {"max_tokens": 1})
    assert set(event) == {"model_name", "model_version", "text_output"}


def test_without_exclusion_an_unstreamed_answer_begins_with_the_prompt(triton: Triton) -> None:
    parameters = {"max_tokens": 12, "seed": 1, "ignore_eos": True}
    (whole,) = triton.events(triton.open(PROMPT, parameters, **ALL))
    (alone,) = triton.events(triton.open(PROMPT, parameters, exclude_input_in_output=True))
    assert whole["text_output"] == PROMPT + alone["text_output"]
    assert (whole["num_output_tokens"], whole["finish_reason"]) == (12, "length")


def test_a_stream_cannot_include_its_input(triton: Triton) -> None:
    status, error = triton.refusal(PROMPT, exclude_input_in_output=False)
    assert (status, "exclude_input_in_output" in error) == (400, True)


def test_one_seed_gives_one_text_streamed_or_not(triton: Triton) -> None:
    parameters = {"max_tokens": 60, "seed": 42}
    texts = {"".join(e["text_output"] for e in triton.stream(PROMPT, parameters)) for _ in range(2)}
    (whole,) = triton.events(triton.open(PROMPT, parameters, exclude_input_in_output=True))
    assert texts == {whole["text_output"]}


def test_a_stop_string_across_tokens_is_never_in_the_text(triton: Triton) -> None:
    parameters = {"max_tokens": 400, "seed": 3}
    text = "".join(event["text_output"] for event in triton.stream(PROMPT, parameters))
    stop = text[4:9]
    events = triton.stream(PROMPT, {**parameters, "stop": [stop]}, **ALL)
    assert "".join(event["text_output"] for event in events) == text[: text.index(stop)]
    assert events[-1]["finish_reason"] == "stop"


def test_n_outputs_stand_beside_each_other_in_every_response(triton: Triton) -> None:
    events = triton.stream(PROMPT, {"max_tokens": 30, "n": 3, "seed": 1, "temperature": 2.0}, **ALL)
    assert all(len(event["text_output"]) == len(event["num_output_tokens"]) == 3 for event in events)
    texts = {"".join(event["text_output"][index] for event in events) for index in range(3)}
    assert len(texts) == 3
    assert set(events[-1]["finish_reason"]) <= {"stop", "length"}


def test_logprobs_are_a_list_with_one_object_a_token(triton: Triton) -> None:
    events = triton.stream(PROMPT, {"max_tokens": 5, "temperature": 0, "logprobs": 2}, **ALL)
    total = 0.0
    for event in events:
        (token,) = json.loads(event["logprobs"])
        assert 1 <= len(token) <= 3
        first = next(iter(token.values()))
        assert set(first) == {"logprob", "rank", "decoded_token"}
        assert (first["rank"], first["decoded_token"]) == (1, event["text_output"])
        total += first["logprob"]
    assert events[-1]["cumulative_logprob"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [({"max_tokns": 1}, "max_tokns"), ({"temperature": -1}, "temperature"), ("{", "JSON"), ({"n": 99}, "n must")],
)
def test_bad_parameters_are_refused_by_name(triton: Triton, parameters: object, named: str) -> None:
    status, error = triton.refusal(PROMPT, parameters)
    assert status == 400
    assert named in error


def test_a_prompt_longer_than_the_context_is_refused(triton: Triton) -> None:
    status, error = triton.refusal("x" * 2048)
    assert (status, "2048" in error) == (400, True)


def test_text_of_any_language_is_taken_and_counted_in_tokens(triton: Triton) -> None:
    (event,) = triton.stream("猫は好き?", {"max_tokens": 1}, **ALL)
    assert event["num_input_tokens"] == demo_tokens("猫は好き?")


def test_tokens_are_counted_as_they_are_generated(triton: Triton) -> None:
    until(lambda: triton.metric("vllm:num_requests_running") == 0)
    before = triton.metric("vllm:prompt_tokens_total"), triton.metric("vllm:generation_tokens_total")
    triton.stream(PROMPT, {"max_tokens": 9, "ignore_eos": True})
    after = triton.metric("vllm:prompt_tokens_total"), triton.metric("vllm:generation_tokens_total")
    assert (after[0] - before[0], after[1] - before[1]) == (demo_tokens(PROMPT), 9)
    assert triton.metric("vllm:num_requests_waiting") == 0


def test_a_client_that_leaves_stops_the_counter(triton: Triton) -> None:
    until(lambda: triton.metric("vllm:num_requests_running") == 0)
    before = triton.metric("vllm:generation_tokens_total")
    events = triton.events(triton.open(PROMPT, {"max_tokens": 1500, "ignore_eos": True}, stream=True))
    for _ in range(20):
        next(events)
    events.close()  # type: ignore[attr-defined]
    left = triton.metric("vllm:generation_tokens_total")
    until(lambda: triton.metric("vllm:num_requests_running") == 0)
    stopped = triton.metric("vllm:generation_tokens_total")
    assert stopped - left <= 10
    assert 20 <= stopped - before < 750


def test_many_streams_at_once_are_all_served(triton: Triton) -> None:
    streams = [triton.open(PROMPT, {"max_tokens": 20, "ignore_eos": True}, stream=True) for _ in range(24)]
    assert [len(list(triton.events(stream))) for stream in streams] == [20] * 24
