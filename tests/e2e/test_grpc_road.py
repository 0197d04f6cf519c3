"""The whole house on the gRPC road: the client cannot tell, and the model stops when it leaves."""

from pathlib import Path

import openai

from tests.e2e.conftest import TOKEN_MS
from tests.support.stack import eventually, running_stack, slow_fleet

ASK = [{"role": "user", "content": "Tell me about cats"}]


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
            whole = client.completions.create(model=stack.model, prompt="Once", max_tokens=800, stream=True)
            next(iter(whole))
            whole.close()
        settled = stack.generated_tokens()
        assert settled < 400

        def still() -> bool | None:
            nonlocal settled
            before, settled = settled, stack.generated_tokens()
            return True if before == settled else None

        eventually(still, 5, "the model did not stop")
