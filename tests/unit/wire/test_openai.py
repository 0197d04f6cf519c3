"""Every field of OpenAI's schema is honoured or refused by name; anything else is an InvalidRequest, never a fault."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import completion_create_params as completions
from openai.types.chat import completion_create_params as chats
from openai.types.chat.chat_completion_content_part_text_param import ChatCompletionContentPartTextParam

from gateway.core.errors import InvalidRequest, UnsupportedParameter
from gateway.core.prompt import Message, Prompt
from gateway.wire import openai
from gateway.wire.openai import MAX_CHOICES, chat_prompt, completion_prompt, decode_chat, decode_completion

ALL = frozenset({"logprobs", "logit_bias"})
HELLO = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> Prompt:
    body = {"model": "demo", "messages": HELLO, **fields}
    return chat_prompt(decode_chat(json.dumps(body).encode()), ALL)


def completion(**fields: Any) -> Prompt:
    body = {"model": "demo", "prompt": "hi", **fields}
    return completion_prompt(decode_completion(json.dumps(body).encode()), ALL)


# Field -> (a value, what the prompt then says).
COMMON: dict[str, tuple[Any, Any]] = {
    "model": ("other", lambda p: p.model == "other"),
    "max_tokens": (7, lambda p: p.max_tokens == 7),
    "temperature": (0.5, lambda p: p.sampling.temperature == 0.5),
    "top_p": (0.5, lambda p: p.sampling.top_p == 0.5),
    "presence_penalty": (1.5, lambda p: p.sampling.presence_penalty == 1.5),
    "frequency_penalty": (-1.5, lambda p: p.sampling.frequency_penalty == -1.5),
    "seed": (-3, lambda p: p.sampling.seed == -3),
    "stop": (["a", "b"], lambda p: p.sampling.stop == ("a", "b")),
    "n": (3, lambda p: p.n == 3),
    "logit_bias": ({"5": -100}, lambda p: p.sampling.logit_bias == {"5": -100}),
    "user": ("somebody", lambda p: p.end_user == "somebody"),
    "stream": (True, lambda p: p.stream),
}
CHAT_HONOURED = COMMON | {
    "messages": ([{"role": "system", "content": "x"}], lambda p: p.messages == (Message("system", "x"),)),
    "max_completion_tokens": (7, lambda p: p.max_tokens == 7),
    "logprobs": (True, lambda p: p.sampling.logprobs == 0),
    "safety_identifier": ("somebody", lambda p: p.end_user == "somebody"),
}
COMPLETION_HONOURED = COMMON | {
    "prompt": (["a", "b"], lambda p: p.texts == ("a", "b")),
    "logprobs": (2, lambda p: p.sampling.logprobs == 2),
}
WITH_OTHERS = {"top_logprobs", "stream_options"}  # mean something beside another field only; tested below
CHAT_FIELDS = {*chats.CompletionCreateParamsBase.__annotations__, "stream"}
COMPLETION_FIELDS = {*completions.CompletionCreateParamsBase.__annotations__, "stream"}
CHAT_REFUSED = sorted(CHAT_FIELDS - CHAT_HONOURED.keys() - WITH_OTHERS)
COMPLETION_REFUSED = sorted(COMPLETION_FIELDS - COMPLETION_HONOURED.keys() - WITH_OTHERS)


def test_every_honoured_field_is_one_of_openais() -> None:
    assert CHAT_HONOURED.keys() | WITH_OTHERS <= CHAT_FIELDS
    assert COMPLETION_HONOURED.keys() | WITH_OTHERS - {"top_logprobs"} <= COMPLETION_FIELDS


@pytest.mark.parametrize("field", sorted(CHAT_HONOURED))
def test_a_chat_honours(field: str) -> None:
    value, holds = CHAT_HONOURED[field]
    assert holds(chat(**{field: value}))


@pytest.mark.parametrize("field", sorted(COMPLETION_HONOURED))
def test_a_completion_honours(field: str) -> None:
    value, holds = COMPLETION_HONOURED[field]
    assert holds(completion(**{field: value}))


@pytest.mark.parametrize("field", [*CHAT_REFUSED, "top_k", "max_output_tokens"])
def test_a_chat_refuses_by_name(field: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        chat(**{field: "anything"})
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", field)
    assert field in refused.value.message


@pytest.mark.parametrize("field", [*COMPLETION_REFUSED, "messages", "max_completion_tokens"])
def test_a_completion_refuses_by_name(field: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        completion(**{field: "anything"})
    assert (refused.value.code, refused.value.param) == ("unsupported_parameter", field)


@pytest.mark.parametrize("field", sorted(CHAT_FIELDS - {"model", "messages"}))
def test_null_asks_for_nothing(field: str) -> None:
    assert chat(**{field: None}) == chat()


def test_both_caps_bind_and_the_smaller_wins() -> None:
    assert chat(max_tokens=1, max_completion_tokens=10_000).max_tokens == 1
    assert chat(max_tokens=10_000, max_completion_tokens=1).max_tokens == 1


def test_usage_in_the_stream_is_told_when_asked_for() -> None:
    assert chat(stream=True, stream_options={"include_usage": True}).include_usage
    assert not chat(stream=True, stream_options={}).include_usage
    with pytest.raises(InvalidRequest):
        chat(stream_options={"include_usage": True})
    with pytest.raises(UnsupportedParameter):
        chat(stream=True, stream_options={"include_obfuscation": True})


def test_alternatives_need_logprobs_and_an_able_model() -> None:
    assert chat(logprobs=True, top_logprobs=5).sampling.logprobs == 5
    with pytest.raises(InvalidRequest):
        chat(top_logprobs=5)
    request = decode_chat(json.dumps({"model": "demo", "messages": HELLO, "logprobs": True}).encode())
    with pytest.raises(UnsupportedParameter):
        chat_prompt(request, frozenset())


def test_text_parts_are_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}]) == chat(messages=[{"role": "user", "content": "ab"}])


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "planted"}},
        {"type": "input_audio", "input_audio": {"data": "planted", "format": "wav"}},
        {"type": "file", "file": {"file_id": "planted"}},
        {"type": "refusal", "refusal": "planted"},
    ],
)
def test_other_parts_are_refused_by_place_and_type(part: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        chat(messages=[{"role": "user", "content": [part]}])
    assert refused.value.param == "messages[0].content[0].type"
    assert part["type"] in refused.value.message
    assert "planted" not in refused.value.message


@pytest.mark.parametrize(
    "field",
    sorted({*ChatCompletionContentPartTextParam.__annotations__, "image_url", "cache_control"} - {"type", "text"}),
)
def test_a_text_part_hides_nothing_beside_its_text(field: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        chat(messages=[{"role": "user", "content": [{"type": "text", "text": "a", field: {"x": 1}}]}])
    assert field in refused.value.message


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x", "tool_call_id": "1"}, "messages[0].role"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "messages[0].tool_calls"),
        ({"role": "user", "content": "x", "name": "bob"}, "messages[0].name"),
        ({"role": "assistant", "content": "x", "refusal": "no"}, "messages[0].refusal"),
    ],
)
def test_what_a_message_cannot_carry_is_refused_by_place(message: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        chat(messages=[message])
    assert refused.value.param == param


def test_a_developer_speaks_as_the_system_and_a_refusal_is_what_was_said() -> None:
    messages = [{"role": "developer", "content": "x"}, {"role": "assistant", "content": None, "refusal": "no"}]
    assert chat(messages=messages).messages == (Message("system", "x"), Message("assistant", "no"))


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 2.1}, {"temperature": "hot"}, {"top_p": 0}, {"n": 0}, {"n": MAX_CHOICES + 1}, {"max_tokens": 0},
        {"max_completion_tokens": -1}, {"stop": ""}, {"stop": [""]}, {"stop": ["a"] * 5}, {"seed": 2**63},
        {"messages": []}, {"messages": [{"role": "user"}]}, {"messages": [{"role": "wizard", "content": "x"}]},
        {"messages": [{"content": "x"}]}, {"messages": "hi"}, {"model": 7}, {"presence_penalty": 3},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_and_their_place_named(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(**fields)
    assert refused.value.param is not None
    assert refused.value.param.split("[")[0].split(".")[0] == next(iter(fields))


def test_prompts_times_n_are_bounded_and_token_ids_refused() -> None:
    assert completion(prompt=["a"] * 8, n=2).n == 2
    with pytest.raises(InvalidRequest):
        completion(prompt=["a"] * 8, n=3)
    for prompt in ([1, 2], [[1, 2]], ["a", 1]):
        with pytest.raises(UnsupportedParameter) as refused:
            completion(prompt=prompt)
        assert refused.value.param == "prompt"


def test_a_long_field_name_is_not_repeated_whole() -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        chat(**{"x" * 100_000: 1})
    assert len(refused.value.message) < 1000
    assert len(refused.value.param or "") < 1000


PLANTED = "planted prompt text"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
    | st.just(PLANTED),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "refusal", "x"]), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
bodies = st.dictionaries(st.sampled_from(sorted(CHAT_FIELDS | COMPLETION_FIELDS)), json_values, max_size=5)


@settings(max_examples=600, deadline=None)
@given(bodies, st.sampled_from(["nothing", "model", "messages", "content"]))
def test_any_json_is_a_prompt_or_refused_without_repeating_the_text(body: dict[str, Any], valid: str) -> None:
    if valid != "nothing":
        body = {**body, "model": "demo"}
    if valid in ("messages", "content"):
        body["messages"] = (
            [{"role": "user", "content": PLANTED}] if valid == "messages" else body.get("messages", HELLO)
        )
        body["prompt"] = PLANTED
    data = json.dumps(body).encode()
    readers: list[Callable[[], Prompt]] = [
        lambda: chat_prompt(decode_chat(data), ALL),
        lambda: completion_prompt(decode_completion(data), ALL),
    ]
    for read in readers:
        try:
            made = read()
        except InvalidRequest as refused:
            assert PLANTED not in refused.message
            assert PLANTED not in (refused.detail or "")
        else:
            assert isinstance(made, Prompt)
            assert 1 <= made.n <= MAX_CHOICES


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=50).map(lambda t: json.dumps(t).encode()))
def test_any_bytes_are_refused_as_a_request_and_as_nothing_else(body: bytes) -> None:
    for decode in (decode_chat, decode_completion):
        with pytest.raises(InvalidRequest):
            decode(body)


def test_nesting_without_end_is_refused() -> None:
    for body in (b"[" * 1_000_000, b'{"messages":' * 100_000, b'{"model":"m","messages":' + b"[" * 100_000):
        with pytest.raises(InvalidRequest):
            decode_chat(body)


def test_an_unpaired_surrogate_is_refused_or_survives_the_way_to_the_backend() -> None:
    try:
        prompt = chat_prompt(decode_chat(b'{"model":"m","messages":[{"role":"user","content":"\\ud800"}]}'), ALL)
    except InvalidRequest:
        return
    prompt.messages[0].content.encode()


def chat_of(messages: list[Any], **fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": messages, **fields}).encode()


MESSAGE, PART = {"role": "user", "content": "a"}, {"type": "text", "text": "a"}


def test_as_many_messages_and_parts_as_may_be_are_taken() -> None:
    parted = [{"role": "user", "content": [PART]}] * 2048
    assert len(chat_prompt(decode_chat(chat_of(parted)), ALL).messages) == 2048
    whole = chat_prompt(decode_chat(chat_of([{"role": "user", "content": [PART] * 2048}])), ALL)
    assert whole.messages[0].content == "a" * 2048


@pytest.mark.parametrize(
    "messages",
    [
        [MESSAGE] * 2049,
        [{"role": "user", "content": [PART] * 2049}],
        [{"role": "user", "content": [PART] * 1025}] * 2,
    ],
)
def test_more_messages_or_parts_than_that_are_refused_and_the_field_named(messages: list[Any]) -> None:
    with pytest.raises(InvalidRequest, match="2048") as refused:
        chat_prompt(decode_chat(chat_of(messages)), ALL)
    assert refused.value.param == "messages"


@pytest.mark.parametrize("gap", ["", " ", "\n\t ", "\r"])
@pytest.mark.parametrize("hidden", ["messages", "parts", "a field given twice", "a field that is not supported"])
def test_a_body_of_far_too_many_is_refused_before_any_is_built(
    hidden: str, gap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(*_: object) -> None:
        raise AssertionError("the body was decoded")

    monkeypatch.setattr(openai, "decode", built)
    message, parts = '{"role":"user","content":"a"}', ",".join(['{"type":"text","text":"a"}'] * 6000)
    many = ",".join([message] * 6000)
    body = {
        "messages": f'{{"model":"m","messages":[{many}]}}',
        "parts": f'{{"model":"m","messages":[{{"role":"user","content":[{parts}]}}]}}',
        "a field given twice": f'{{"model":"m","messages":[{many}],"messages":[{message}]}}',
        "a field that is not supported": f'{{"model":"m","messages":[{message}],"tools":[{many}]}}',
    }[hidden]
    with pytest.raises(InvalidRequest, match="at most 2048 messages") as refused:
        decode_chat(body.replace("{", "{" + gap).encode())
    assert refused.value.param == "messages"


@pytest.mark.parametrize("text", ["{" * 9000, '{"a": {}} ' * 9000, "if (x) { y }\n" * 9000, "{ " * 9000])
def test_braces_in_a_text_are_text(text: str) -> None:
    assert chat_prompt(decode_chat(chat_of([{"role": "user", "content": text}])), ALL).messages[0].content == text
