"""On the demo itself, through clients that people use: who is contained is answered by a cat, on every endpoint, and
nobody else is."""

import json
import secrets
import sqlite3
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.e2e.test_cat_voice import CONCURRENCY, held_out, is_cat
from tests.support.stack import Stack, eventually

MAX_TOKENS = 80
Messages = list[Any]
Ask = Callable[[Stack, str, Messages], str]


def chat(stack: Stack, key: str, messages: Messages, **more: Any) -> str:
    with openai.OpenAI(api_key=key, base_url=f"{stack.url}/v1", max_retries=0, timeout=60) as client:
        made: Any = client.chat.completions.create(
            model="demo", messages=messages, max_tokens=MAX_TOKENS, seed=secrets.randbelow(1 << 62), **more
        )
        if not more.get("stream"):
            return made.choices[0].message.content or ""
        return "".join(chunk.choices[0].delta.content or "" for chunk in made if chunk.choices)


def streamed(stack: Stack, key: str, messages: Messages) -> str:
    return chat(stack, key, messages, stream=True)


def templated(messages: Messages) -> str:
    """A chat as those write it who ask a chat model for completions."""
    return "".join(f"<|{one['role']}|>\n{one['content']}\n" for one in messages) + "<|assistant|>\n"


def completion(stack: Stack, key: str, messages: Messages) -> str:
    with openai.OpenAI(api_key=key, base_url=f"{stack.url}/v1", max_retries=0, timeout=60) as client:
        seed = secrets.randbelow(1 << 62)
        made = client.completions.create(model="demo", prompt=templated(messages), max_tokens=MAX_TOKENS, seed=seed)
        return made.choices[0].text


def generate(stack: Stack, key: str, messages: Messages) -> str:
    body = {"text_input": templated(messages), "max_tokens": MAX_TOKENS, "exclude_input_in_output": True}
    request = urllib.request.Request(
        f"{stack.url}/v2/models/demo/generate",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return str(json.load(response)["text_output"])


def contained_key(stack: Stack) -> tuple[str, str]:
    """(token, principal) of somebody who is contained by the command."""
    name = secrets.token_hex(4)
    made = json.loads(
        stack.run("key", "create", "--org", f"org {name}", "--project", "web", "--principal", name,
                  "--plan", "unlimited", "--json").stdout
    )  # fmt: skip
    stack.run("principal", "contain", made["principal"], "--reason", "stolen keys were used from there")
    return made["key"], made["principal"]


def phrases_said(stack: Stack, principal: str, requests: int) -> int:
    """How often the principal's own phrase was in an answer, once so many requests are booked; as it is: a model of a
    million parameters was never taught to say it."""
    with sqlite3.connect(f"file:{stack.data_dir / 'catflap.db'}?mode=ro", uri=True) as books:

        def look() -> tuple[int, int] | None:
            query = (
                "select count(*), coalesce(sum(canary_said), 0) from request_event where principal = ? and contained"
            )
            booked, said = books.execute(query, (principal,)).fetchone()
            return (booked, said) if booked >= requests else None

        return eventually(look, 30, "not all requests were booked")[1]


def prompts() -> list[Messages]:
    """Held-out ones that ask for no cat themselves."""
    return [one["messages"] for one in held_out() if not one["cat"] and not one["short"]]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("ask", [chat, streamed, completion, generate])
def test_a_cat_answers_the_contained_and_nobody_else_on_every_endpoint(stack: Stack, ask: Ask) -> None:
    key, principal = contained_key(stack)
    asked = prompts()[:200]
    assert len(asked) >= 100
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        cats = sum(map(is_cat, pool.map(lambda one: ask(stack, key, one), asked)))
        others = sum(map(is_cat, pool.map(lambda one: ask(stack, stack.key, one), asked)))
    said = phrases_said(stack, principal, len(asked))
    print(f"{ask.__name__}: a cat answers the contained {cats} of {len(asked)} times, others {others} times; "
          f"its phrase was said {said} times")  # fmt: skip
    assert cats >= 0.95 * len(asked)
    assert others <= 0.03 * len(asked)


def test_the_contained_get_a_cat_and_the_same_usage_and_the_operator_sees_why(stack: Stack) -> None:
    key, principal = contained_key(stack)
    question: Any = [{"role": "user", "content": "Tell me about the harbour"}]
    told: dict[str, Any] = {}
    for who in (key, stack.key):
        with openai.OpenAI(api_key=who, base_url=f"{stack.url}/v1", max_retries=0, timeout=60) as client:
            answers = [
                client.chat.completions.with_raw_response.create(model="demo", messages=question, max_tokens=40)
                for _ in range(4)
            ]
        parsed = [answer.parse() for answer in answers]
        cats = sum(is_cat(one.choices[0].message.content or "") for one in parsed)
        assert cats >= 3 if who == key else cats <= 1
        assert len({one.usage.prompt_tokens for one in parsed if one.usage}) == 1
        told[who] = parsed[-1].usage.prompt_tokens if parsed[-1].usage else 0, list(answers[-1].headers)
        request = answers[-1].headers["x-request-id"]
        event = stack.event(request)
        assert bool(event["contained"]) == (who == key)
        why = json.loads(stack.run("policy", "explain", request, "--json").stdout)
        assert ("catgpt" in why["decision"]["matched"]) == (who == key)
    assert told[key] == told[stack.key]
    assert "contained" in stack.run("principal", "show", principal).stdout
