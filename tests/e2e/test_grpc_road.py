"""The whole house on the gRPC road: the client cannot tell, and the model stops when it leaves."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import openai

from tests.e2e.conftest import TOKEN_MS
from tests.support.stack import Stack, eventually, running_stack, slow_fleet

ASK = [{"role": "user", "content": "Tell me about cats"}]
STORY: Any = [{"role": "user", "content": "Tell me a long story."}]
"""At temperature 0 some 40 tokens."""


def still(stack: Stack, before: float) -> float | None:
    """Tokens made since `before`, once none has been added for a quarter of a second (12 tokens' time)."""
    first = stack.generated_tokens()
    time.sleep(0.25)
    return first - before if stack.generated_tokens() == first else None


def test_a_house_on_grpc_streams_answers_and_stops_for_a_client_that_leaves(tmp_path: Path) -> None:
    fleet = str(slow_fleet(tmp_path, TOKEN_MS))
    with running_stack(tmp_path, CATFLAP_FLEET=fleet, CATFLAP_TRITON_TRANSPORT="grpc") as stack:
        with openai.OpenAI(api_key=stack.key, base_url=f"{stack.url}/v1", max_retries=0, timeout=30) as client:
            stream = client.chat.completions.create(
                model=stack.model, messages=ASK, max_tokens=20, stream=True, stream_options={"include_usage": True}
            )  # type: ignore[call-overload]
            *chunks, last = list(stream)
            assert last.usage.completion_tokens >= 1
            assert chunks[-1].choices[0].finish_reason in ("stop", "length")
            assert len(client.embeddings.create(model="demo-embed", input="hi").data[0].embedding) == 128
            before = stack.generated_tokens()
            story = client.chat.completions.create(
                model=stack.model, messages=STORY, max_tokens=800, stream=True, temperature=0
            )
            seen = 0
            while seen < 12:
                seen += bool(next(story).choices[0].delta.content)
            story.close()
        generated = eventually(partial(still, stack, before), 5, "the model did not stop")
        print(f"{seen} tokens were read, {generated:.0f} made")
        assert seen <= generated <= seen + 10
