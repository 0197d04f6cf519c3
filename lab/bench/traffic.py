"""What the clients of a benchmark send, and how they read what comes back."""

import json

PATH = "/v1/chat/completions"
MAX_TOKENS = 256
_PROMPT = "A cat that wants in waits at the flap, and a cat that wants out waits there too. " * 12


def chat(*, stream: bool) -> bytes:
    """The body of one chat completion, about 1 KB, as the OpenAI client would send it."""
    body: dict[str, object] = {
        "model": "mock-stream" if stream else "mock",
        "messages": [
            {"role": "system", "content": "You answer briefly."},
            {"role": "user", "content": _PROMPT},
        ],
        "temperature": 0.7,
        "max_tokens": MAX_TOKENS,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


def text_of(body: bytes) -> str:
    """The generated text in an answer: OpenAI's, streamed or whole, or Triton's own events, which a floor passes on.

    Raises ValueError if the body is neither.
    """
    if not body.startswith(b"data: "):
        return _text(json.loads(body))
    events = [line.removeprefix(b"data: ") for line in body.splitlines() if line.startswith(b"data: ")]
    return "".join(_text(json.loads(event)) for event in events if event != b"[DONE]")


def _text(event: dict[str, object]) -> str:
    match event:
        case {"text_output": str(text)}:
            return text
        case {"choices": [{"message": {"content": str(text)}}]}:
            return text
        case {"choices": [{"delta": {"content": str(text)}}]}:
            return text
        case {"choices": [] | [{"delta": _}]}:  # the usage chunk, or one that holds a role or an end only
            return ""
    raise ValueError(f"An event without text: {sorted(event)}")
