"""KServe's generate on text models: one neutral prompt whatever the spelling, and the vLLM backend's answers."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.delta import Delta, Usage
from gateway.core.errors import InvalidRequest, UnsupportedParameter
from gateway.core.prompt import Prompt, Sampling
from gateway.wire.answers import Choice
from gateway.wire.kserve_generate import Form, GenerateWriter, decode_generate, generate_prompt


def read(
    fields: dict[str, Any], *, stream: bool = False, abilities: frozenset[str] = frozenset()
) -> tuple[Prompt, Form]:
    request = decode_generate(json.dumps({"text_input": "hi", **fields}).encode())
    return generate_prompt(request, "demo", abilities, stream=stream)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 5, "temperature": 0.5, "stop": "x"},
        {"parameters": {"max_tokens": 5, "temperature": 0.5, "stop": ["x"]}},
        {"sampling_parameters": {"max_tokens": 5, "temperature": 0.5, "stop": "x"}},
        {"sampling_parameters": '{"max_tokens": 5, "temperature": 0.5, "stop": ["x"]}'},
        {"text_input": ["hi"], "max_tokens": 5, "parameters": {"temperature": 0.5}, "sampling_parameters":
            '{"stop": "x"}'},
    ],
)  # fmt: skip
def test_every_spelling_means_the_same_prompt(fields: dict[str, Any]) -> None:
    prompt, _ = read(fields)
    assert prompt == Prompt(
        endpoint="generate", model="demo", texts=("hi",), sampling=Sampling(temperature=0.5, stop=("x",)), max_tokens=5
    )


@given(caps=st.lists(st.integers(1, 10_000), min_size=3, max_size=3))
def test_the_smallest_cap_binds_wherever_it_stands(caps: list[int]) -> None:
    top, parameters, sampling = caps
    fields = {
        "max_tokens": top,
        "parameters": {"max_tokens": parameters},
        "sampling_parameters": json.dumps({"max_tokens": sampling}),
    }
    assert read(fields)[0].max_tokens == min(caps)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"ignore_eos": True}, "ignore_eos"),
        ({"parameters": {"priority": 1}}, "parameters.priority"),
        ({"sampling_parameters": {"min_tokens": 9}}, "sampling_parameters.min_tokens"),
        ({"sampling_parameters": '{"min_tokens": 9}'}, "sampling_parameters.min_tokens"),
        ({"n": 2}, "n"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"return_logprobs": True}, "return_logprobs"),
        ({"shared_memory_region": "r"}, "shared_memory_region"),
    ],
)
def test_what_is_not_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        read(fields)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"temperature": 1, "parameters": {"temperature": 0}}, "temperature"),
        ({"sampling_parameters": "{"}, "sampling_parameters"),
        ({"sampling_parameters": '{"top_p": 7}'}, "sampling_parameters.top_p"),
        ({"stop": ""}, "stop"),
        ({"stream": True}, "stream"),
        ({"text_input": ["a", "b"]}, "text_input"),
        ({"text_input": 1}, "text_input"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(fields)
    assert refused.value.param == param


def test_an_empty_sampling_parameters_means_none() -> None:
    assert read({"sampling_parameters": ""})[0].sampling == Sampling()


def test_a_stream_never_includes_its_input() -> None:
    with pytest.raises(InvalidRequest, match="exclude_input_in_output"):
        read({"exclude_input_in_output": False}, stream=True)


DELTAS = [Delta("Hel", prompt_tokens=3, completion_tokens=1), Delta("lo", 0, "stop", 3, 1)]


def test_a_stream_is_a_frame_a_delta_with_what_was_asked_for() -> None:
    _, form = read({"return_num_output_tokens": True, "return_finish_reason": True}, stream=True)
    writer = GenerateWriter("demo", form)
    frames = [json.loads(writer.delta(delta).removeprefix(b"data: ")) for delta in DELTAS]
    assert frames == [
        {"model_name": "demo", "text_output": "Hel", "finish_reason": "None", "num_output_tokens": 1},
        {"model_name": "demo", "text_output": "lo", "finish_reason": "stop", "num_output_tokens": 1},
    ]
    assert writer.usage(Usage(3, 2)) == b""


def test_a_stream_that_is_asked_not_to_be_one_is_one_frame() -> None:
    _, form = read({"stream": False, "return_num_input_tokens": True, "return_num_output_tokens": True}, stream=True)
    writer = GenerateWriter("demo", form)
    frames = [writer.delta(delta) for delta in DELTAS]
    assert frames[0] == b""
    assert json.loads(frames[1].removeprefix(b"data: ")) == {
        "model_name": "demo", "text_output": "hiHello", "num_input_tokens": 3, "num_output_tokens": 2,
    }  # fmt: skip


def test_a_whole_answer_begins_with_its_input_unless_it_is_asked_not_to() -> None:
    choice = Choice()
    for delta in DELTAS:
        choice.add(delta)
    for fields, text in (({}, "hiHello"), ({"exclude_input_in_output": True}, "Hello")):
        told = GenerateWriter("demo", read(fields)[1]).whole([choice], Usage(3, 2))
        assert json.loads(told) == {"model_name": "demo", "text_output": text}
