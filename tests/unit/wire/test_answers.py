"""What clients read, parsed by the OpenAI package's own models."""

import json

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway.core.delta import Delta, TokenLogprob, Usage
from gateway.wire.answers import ChatWriter, Choice, CompletionWriter
from gateway.wire.sse import Decoder

REQUEST = "req_" + "0" * 32
TEXT = 'Miau "quoted"\n\ud7ff \x00 猫 😺'
TOKENS = (TokenLogprob("Mi", -0.1, (("Mi", -0.1), ("Wu", -2.0))), TokenLogprob("猫", -0.5, ()))


def frames(data: bytes) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(event) for event in Decoder().feed(data)]


def gathered(*deltas: Delta) -> Choice:
    choice = Choice()
    for delta in deltas:
        choice.add(delta)
    return choice


def test_a_streamed_chat_opens_with_the_role_and_ends_with_the_reason() -> None:
    writer = ChatWriter(REQUEST, "demo", 7, False)
    told = frames(writer.delta(Delta(TEXT)) + writer.delta(Delta(" more", finish_reason="stop")))
    chunks = [ChatCompletionChunk.model_validate(frame, strict=True) for frame in told]
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", TEXT, " more", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "stop"]
    assert {chunk.id for chunk in chunks} == {"chatcmpl-" + "0" * 32}
    assert {(chunk.model, chunk.created) for chunk in chunks} == {("demo", 7)}


@pytest.mark.parametrize("writer", [ChatWriter, CompletionWriter])
def test_usage_is_told_to_those_who_asked_and_to_nobody_else(writer: type[ChatWriter | CompletionWriter]) -> None:
    silent = frames(writer(REQUEST, "demo", 7, False).delta(Delta("x", finish_reason="stop")))
    assert not any("usage" in frame for frame in silent)
    asked = writer(REQUEST, "demo", 7, True)
    assert all(frame["usage"] is None for frame in frames(asked.delta(Delta("x", finish_reason="stop"))))
    [last] = frames(asked.usage(Usage(3, 4)))
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def test_a_frame_of_usage_is_a_chunk_for_the_openai_client() -> None:
    [last] = frames(ChatWriter(REQUEST, "demo", 7, True).usage(Usage(3, 4)))
    usage = ChatCompletionChunk.model_validate(last, strict=True).usage
    assert usage is not None
    assert usage.total_tokens == 7


def test_a_whole_chat_is_a_chat_completion() -> None:
    choices = [gathered(Delta("a"), Delta("b", finish_reason="stop")), gathered(Delta(TEXT, 1, "length"))]
    body = ChatWriter(REQUEST, "demo", 7, False).whole(choices, Usage(3, 4))
    answer = ChatCompletion.model_validate_json(body, strict=True)
    assert [(c.index, c.message.content, c.finish_reason) for c in answer.choices] == [
        (0, "ab", "stop"),
        (1, TEXT, "length"),
    ]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 4, 7)


def test_a_whole_completion_is_a_completion() -> None:
    body = CompletionWriter(REQUEST, "demo", 7, False).whole([gathered(Delta("a"), Delta("b", 0, "stop"))], Usage(3, 4))
    answer = Completion.model_validate_json(body, strict=True)
    assert (answer.choices[0].text, answer.choices[0].finish_reason, answer.choices[0].logprobs) == ("ab", "stop", None)


def test_a_streamed_completion_is_a_row_of_completions() -> None:
    writer = CompletionWriter(REQUEST, "demo", 7, False)
    told = frames(writer.delta(Delta("a")) + writer.delta(Delta("")) + writer.delta(Delta("", 0, "stop")))
    assert [(f["choices"][0]["text"], f["choices"][0]["finish_reason"]) for f in told] == [("a", None), ("", "stop")]
    assert all(frame["object"] == "text_completion" for frame in told)


def test_logprobs_of_a_chat_name_token_bytes_and_alternatives() -> None:
    writer = ChatWriter(REQUEST, "demo", 7, False)
    delta = Delta("Mi猫", finish_reason="stop", logprobs=TOKENS)
    told = [ChatCompletionChunk.model_validate(f, strict=True) for f in frames(writer.delta(delta))]
    streamed = told[1].choices[0].logprobs
    whole = (
        ChatCompletion.model_validate_json(writer.whole([gathered(delta)], Usage()), strict=True).choices[0].logprobs
    )
    for logprobs in (streamed, whole):
        assert logprobs is not None
        assert logprobs.content is not None
        first, second = logprobs.content
        assert (first.token, first.logprob, first.bytes) == ("Mi", -0.1, list(b"Mi"))
        assert [(top.token, top.logprob) for top in first.top_logprobs] == [("Mi", -0.1), ("Wu", -2.0)]
        assert (second.bytes, second.top_logprobs) == (list("猫".encode()), [])


def test_logprobs_of_a_completion_count_offsets_over_the_whole_choice() -> None:
    writer = CompletionWriter(REQUEST, "demo", 7, False)
    first, second = frames(writer.delta(Delta("Mi猫", logprobs=TOKENS)) + writer.delta(Delta("Mi猫", logprobs=TOKENS)))
    assert Completion.model_validate(
        first | {"choices": [first["choices"][0] | {"finish_reason": "stop"}]}, strict=True
    )
    assert first["choices"][0]["logprobs"]["text_offset"] == [0, 2]
    assert second["choices"][0]["logprobs"]["text_offset"] == [3, 5]
    assert first["choices"][0]["logprobs"]["top_logprobs"] == [{"Mi": -0.1, "Wu": -2.0}, {}]
