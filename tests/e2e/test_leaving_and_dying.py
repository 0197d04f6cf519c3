"""A client leaves; Triton is killed: the GPU stops, what was used is charged, the rest comes back."""

import os
import signal
import time
from typing import Any

import openai
import pytest

from tests.support.stack import Stack, eventually

CHAT: Any = [{"role": "user", "content": "Tell me a long story."}]
"""At temperature 0 the demo model's longest answer: some 40 tokens, which take 0.8 s at the pace of these tests."""


def stream(client: openai.OpenAI) -> Any:
    return client.chat.completions.with_raw_response.create(
        model="demo", messages=CHAT, max_tokens=900, stream=True, extra_body={"stop": None}, temperature=0
    )


def settled(stack: Stack) -> bool | None:
    return True if stack.held() == 0 else None


def test_when_the_client_leaves_in_mid_stream_generation_stops_and_only_what_was_generated_is_charged(
    client: openai.OpenAI, stack: Stack
) -> None:
    before = stack.generated_tokens()
    raw = stream(client)
    chunks = iter(raw.parse())
    seen = 0
    while seen < 12:
        seen += bool(next(chunks).choices[0].delta.content)
    raw.http_response.close()
    at_leaving = stack.generated_tokens() - before
    event = stack.event(raw.headers["x-request-id"])
    generated = eventually(lambda: _still(stack, before), 5, "the counter never came to rest")
    assert generated - at_leaving <= 10
    assert event["outcome"] == "cancelled"
    charged = event["completion_tokens"]
    assert isinstance(charged, int)
    assert seen <= charged <= generated
    assert stack.held() == 0


def _still(stack: Stack, before: float) -> float | None:
    """What has been generated, once it has not changed for a quarter of a second (12 tokens' time)."""
    first = stack.generated_tokens()
    time.sleep(0.25)
    return first - before if stack.generated_tokens() == first else None


def test_when_triton_is_killed_in_mid_stream_the_client_gets_an_error_frame_and_soon_service_again(
    client: openai.OpenAI, stack: Stack
) -> None:
    raw = stream(client)
    chunks = iter(raw.parse())
    for _ in range(5):
        next(chunks)
    os.kill(stack.child("tritonserver"), signal.SIGKILL)
    killed = time.monotonic()
    with pytest.raises(openai.APIError) as told:
        for _ in chunks:
            pass
    assert told.value.code == "upstream_error"

    def answered() -> bool | None:
        try:
            return bool(client.chat.completions.create(model="demo", messages=CHAT, max_tokens=2).choices)
        except openai.APIStatusError as error:
            assert error.status_code in (502, 503), error
            return None

    eventually(answered, 15, "no service within 15 s after Triton was killed")
    print(f"service again {time.monotonic() - killed:.1f} s after Triton was killed")
    event = stack.event(raw.headers["x-request-id"])
    assert event["outcome"] == "failed"
    assert event["completion_tokens"]
    eventually(lambda: settled(stack), 5, "something stays reserved")
