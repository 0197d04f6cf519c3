"""The current OpenAI Python client, unmodified, reaches a real Triton through Catflap."""

import json
import urllib.error
import urllib.request
from typing import Any

import openai
import pytest

from tests.support.stack import Stack
from tests.support.tokens import demo_tokens

CHAT: Any = [{"role": "user", "content": "What do you like to eat?"}]


def post(stack: Stack, body: bytes, key: str | None = None) -> tuple[int, dict[str, Any]]:
    """A request as no client library makes it."""
    headers = {"authorization": f"Bearer {key or stack.key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{stack.url}/v1/chat/completions", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_a_chat_is_answered_whole_with_usage_and_a_reason(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=CHAT, max_tokens=200)
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == demo_tokens(f"<|user|>\n{CHAT[0]['content']}\n<|assistant|>\n")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id is not None
    assert answer._request_id.startswith("req_")


def test_a_streamed_chat_says_the_same_as_a_whole_one(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="demo", messages=CHAT, max_tokens=40, temperature=0)
    chunks = list(
        client.chat.completions.create(model="demo", messages=CHAT, max_tokens=40, temperature=0, stream=True)
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == [
        whole.choices[0].finish_reason
    ]
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model="demo", messages=CHAT, max_tokens=5, stream=True, stream_options=options)
    )
    *others, last = chunks
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 5
    assert all(chunk.choices and chunk.usage is None for chunk in others)


def test_what_the_models_prefix_cache_spared_is_told_as_openai_tells_it(client: openai.OpenAI, stack: Stack) -> None:
    prompt = "What do you think of long walks in the rain? " * 8
    first, second = (
        client.completions.create(model=stack.model, prompt=prompt, max_tokens=1, temperature=0).usage for _ in range(2)
    )
    assert first is not None
    assert second is not None
    assert first.prompt_tokens == second.prompt_tokens
    assert second.prompt_tokens_details is not None
    assert 0 < (second.prompt_tokens_details.cached_tokens or 0) < second.prompt_tokens


def test_a_completion_is_answered_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="demo", prompt="Once upon a", max_tokens=20, temperature=0)
    chunks = list(
        client.completions.create(model="demo", prompt="Once upon a", max_tokens=20, temperature=0, stream=True)
    )
    assert whole.choices[0].text
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == demo_tokens("Once upon a")


def test_several_choices_of_several_prompts_come_with_their_indexes(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="demo", prompt=["The sun", "The sea"], n=2, max_tokens=4, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == demo_tokens("The sun") + demo_tokens("The sea")
    assert answer.usage.completion_tokens == 16


def test_the_same_seed_gives_the_same_answer(client: openai.OpenAI) -> None:
    def once() -> str | None:
        answer = client.chat.completions.create(model="demo", messages=CHAT, max_tokens=30, seed=3, temperature=1)
        return answer.choices[0].message.content

    assert once() == once()


def test_a_stop_string_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    free = client.chat.completions.create(model="demo", messages=CHAT, max_tokens=60, temperature=0)
    text = free.choices[0].message.content or ""
    word = text.split()[2]
    stopped = client.chat.completions.create(model="demo", messages=CHAT, max_tokens=60, temperature=0, stop=[word])
    assert stopped.choices[0].message.content == text[: text.index(word)]
    assert stopped.choices[0].finish_reason == "stop"


def test_an_answer_that_reaches_its_length_says_so(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=CHAT, max_tokens=3, max_completion_tokens=7)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_log_probabilities_come_with_their_alternatives(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="demo", messages=CHAT, max_tokens=4, logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 4
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in logprobs.content)


def test_models_are_listed_and_shown(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo", "demo-embed"]
    assert client.models.retrieve("demo").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


def test_a_bad_key_is_refused_as_openai_refuses_it(stack: Stack) -> None:
    with openai.OpenAI(api_key="sk-wrong", base_url=f"{stack.url}/v1", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as refused:
            stranger.chat.completions.create(model="demo", messages=CHAT)
        assert refused.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="gpt-9", messages=CHAT)
    assert refused.value.code == "model_not_found"


def test_a_prompt_longer_than_the_context_is_refused_before_the_model_sees_it(
    client: openai.OpenAI, stack: Stack
) -> None:
    before = stack.scrape("CATFLAP_TRITON_METRICS_PORT")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "long " * 4000}])
    assert refused.value.code == "context_length_exceeded"
    after = stack.scrape("CATFLAP_TRITON_METRICS_PORT")
    prompts = [name for name in before if "prompt_tokens_total" in name]
    assert prompts
    assert all(after[name] == before[name] for name in prompts)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"5": 1}),
        ("reasoning_effort", "high"),
        ("never_heard_of", 1),
    ],
)
def test_what_the_model_cannot_do_is_refused_by_name(client: openai.OpenAI, parameter: str, value: object) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="demo", messages=CHAT, extra_body={parameter: value})
    assert refused.value.code == "unsupported_parameter"
    assert refused.value.param == parameter


def test_an_image_is_refused_by_name(client: openai.OpenAI) -> None:
    content: Any = [{"type": "text", "text": "See:"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="demo", messages=[{"role": "user", "content": content}])
    assert refused.value.param == "messages[0].content[1].type"


def test_bad_json_is_told_as_such(stack: Stack) -> None:
    status, body = post(stack, b'{"model": "demo", ')
    assert status == 400
    assert body["error"]["type"] == "invalid_request_error"
    assert set(body["error"]) == {"message", "type", "param", "code"}


def test_an_oversized_body_is_refused(stack: Stack) -> None:
    status, body = post(stack, json.dumps({"model": "demo", "messages": CHAT, "user": "x" * 70_000}).encode())
    assert status == 413
    assert body["error"]["code"] == "request_too_large"


def test_limits_are_told_and_kept_and_the_client_understands_the_refusal(stack: Stack) -> None:
    with openai.OpenAI(api_key=stack.new_key("free"), base_url=f"{stack.url}/v1", max_retries=0) as free:
        raw = free.chat.completions.with_raw_response.create(model="demo", messages=CHAT, max_tokens=1)
        assert raw.headers["x-ratelimit-limit-requests"] == "20"
        assert raw.headers["x-ratelimit-remaining-requests"] == "19"
        for _ in range(19):
            free.chat.completions.create(model="demo", messages=CHAT, max_tokens=1)
        with pytest.raises(openai.RateLimitError) as refused:
            free.chat.completions.create(model="demo", messages=CHAT, max_tokens=1)
    assert refused.value.code == "rate_limit_exceeded"
    assert 0 < int(refused.value.response.headers["retry-after"]) <= 61


def test_every_answer_is_in_the_ledger_to_the_token(client: openai.OpenAI, stack: Stack) -> None:
    answer = client.chat.completions.create(model="demo", messages=CHAT, max_tokens=9)
    assert answer._request_id is not None
    assert answer.usage is not None
    event = stack.event(answer._request_id)
    assert (event["prompt_tokens"], event["completion_tokens"]) == (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
    )
    assert event["outcome"] == "completed"
