"""The vLLM backend's contract, with its traps."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.delta import Delta, TokenLogprob
from gateway.core.errors import UpstreamFailed
from gateway.core.prompt import Sampling
from gateway.fleet.adapters.vllm import INPUTS, Decoder, request


def asked(sampling: Sampling = Sampling(), choice: int = 0) -> tuple[dict, dict]:  # type: ignore[type-arg]  # noqa: B008
    body = dict(request('say "猫"\n', sampling, 9, choice).values)
    return body, json.loads(str(body["sampling_parameters"]))


def test_a_request_is_a_stream_without_the_prompt_and_with_every_count() -> None:
    body, parameters = asked()
    assert body["text_input"] == 'say "猫"\n'
    assert all(body[name] is True for name in ("stream", "exclude_input_in_output", "return_finish_reason"))
    assert body["return_num_input_tokens"] and body["return_num_output_tokens"]
    assert parameters == {"max_tokens": 9}
    assert body.keys() <= INPUTS.keys()


def test_sampling_goes_along_under_vllms_names_and_each_choice_has_its_seed() -> None:
    sampling = Sampling(temperature=0.0, top_p=0.5, presence_penalty=1, frequency_penalty=-1, seed=2**63 - 1,
                        stop=("x",), logprobs=0, logit_bias={"5": 1.0})  # fmt: skip
    body, parameters = asked(sampling, 1)
    assert body["return_logprobs"] is True
    assert parameters == {
        "max_tokens": 9, "temperature": 0.0, "top_p": 0.5, "presence_penalty": 1, "frequency_penalty": -1, "seed": 0,
        "stop": ["x"], "logprobs": 0, "logit_bias": {"5": 1.0},
    }  # fmt: skip


def delta(decoder: Decoder | None = None, **fields: object) -> Delta:
    return (decoder or Decoder(2, None)).delta(json.dumps(fields).encode())


def test_an_unfinished_reason_is_the_word_none() -> None:
    told = delta(text_output="x", finish_reason="None", num_input_tokens=5, num_output_tokens=1)
    assert told == Delta("x", 2, None, 5, 1)
    assert delta(text_output=["x"], finish_reason=["length"], num_input_tokens=[5], num_output_tokens=[1]) == Delta(
        "x", 2, "length", 5, 1
    )


def test_an_abort_and_an_error_are_failures_whose_words_are_not_relayed() -> None:
    failures: list[dict[str, Any]] = [
        {"finish_reason": "abort"},
        {"error": "insides", "text_output": "x"},
        {"text_output": []},
    ]
    for fields in failures:
        with pytest.raises(UpstreamFailed) as failed:
            delta(**fields)
        assert "insides" not in failed.value.message + (failed.value.detail or "")


def test_logprobs_tell_the_sampled_token_first_and_the_best_beside_it() -> None:
    tokens = [{"7": {"logprob": -3.0, "rank": 9, "decoded_token": "a"}, "8": {"logprob": -0.1, "decoded_token": "b"}}]
    told = delta(Decoder(0, 1), text_output="a", logprobs=json.dumps(tokens))
    assert told.logprobs == (TokenLogprob("a", -3.0, (("b", -0.1),)),)
    assert delta(Decoder(0, 0), text_output="a", logprobs=json.dumps(tokens)).logprobs == (TokenLogprob("a", -3.0),)
    assert delta(Decoder(0, None), text_output="a", logprobs="not even JSON").logprobs is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda i: st.lists(i, max_size=2)
)
events = st.dictionaries(
    st.sampled_from(["text_output", "finish_reason", "num_input_tokens", "num_output_tokens", "logprobs", "error"]),
    json_values,
)


@given(st.binary(max_size=30) | events.map(lambda event: json.dumps(event).encode()))
def test_any_bytes_are_a_delta_or_the_servers_failure(data: bytes) -> None:
    try:
        told = Decoder(0, 2).delta(data)
    except UpstreamFailed:
        return
    assert isinstance(told.prompt_tokens, int)
    assert isinstance(told.completion_tokens, int)
    assert isinstance(told.text, str)
