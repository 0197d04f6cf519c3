"""The bytes that the mock Triton sends, all made once at start: vLLM's tensor contract, and the control answers.

Two models. `mock` answers at once with one event of 27 tokens; `mock-stream` with `chunks` events of one token each.
Shapes are Triton's own: `generate_stream` sends each one-element tensor as a JSON scalar, one SSE event a response.
"""

import json

PROMPT_TOKENS = 182
AT_ONCE_TEXT = (
    "The flap swings both ways. It knows its own cat by the collar, counts how often she goes out, "
    "and keeps the neighbour's tom waiting in the rain."
)
AT_ONCE_TOKENS = 27
FIRST_WORD = " word0"
"""The text of the first event of `mock-stream`: where a client's time to first token ends."""

_INPUTS = (
    ("text_input", "STRING", False),
    ("stream", "BOOL", True),
    ("sampling_parameters", "STRING", True),
    ("exclude_input_in_output", "BOOL", True),
    ("return_finish_reason", "BOOL", True),
    ("return_num_input_tokens", "BOOL", True),
    ("return_num_output_tokens", "BOOL", True),
    ("return_logprobs", "BOOL", True),
)
_OUTPUTS = (
    ("text_output", "STRING", -1),
    ("finish_reason", "STRING", -1),
    ("num_input_tokens", "UINT32", 1),
    ("num_output_tokens", "UINT32", -1),
    ("logprobs", "STRING", -1),
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_LAST_CHUNK = b"0\r\n\r\n"


def json_answer(status: str, body: object = None) -> bytes:
    """A whole HTTP/1.1 response; without a body an empty one, as Triton's health calls are answered."""
    data = b"" if body is None else json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


def at_once() -> bytes:
    """The whole response of `mock`."""
    return _STREAM_HEAD + _event("mock", AT_ONCE_TEXT, "stop", AT_ONCE_TOKENS) + _LAST_CHUNK


def stream(chunks: int) -> list[bytes]:
    """The response of `mock-stream`, one element a tick; the head goes with the first, the end with the last."""
    reasons = ["None"] * (chunks - 1) + ["stop"]
    events = [_event("mock-stream", f" word{n}", reason, 1) for n, reason in enumerate(reasons)]
    events[0] = _STREAM_HEAD + events[0]
    events[-1] += _LAST_CHUNK
    return events


def control_answers(models: tuple[str, ...] = ("mock", "mock-stream")) -> dict[bytes, bytes]:
    """Path -> response of every GET that a Triton client asks before it trusts a server."""
    server = {"name": "triton", "version": "2.51.0", "extensions": ["model_configuration", "generate"]}
    answers = {
        "/v2": json_answer("200 OK", server),
        "/v2/health/live": json_answer("200 OK"),
        "/v2/health/ready": json_answer("200 OK"),
    }
    for model in models:
        for path in (f"/v2/models/{model}", f"/v2/models/{model}/versions/1"):
            answers[path] = json_answer("200 OK", _metadata(model))
            answers[f"{path}/ready"] = json_answer("200 OK")
            answers[f"{path}/config"] = json_answer("200 OK", _configuration(model))
    return {path.encode(): answer for path, answer in answers.items()}


def _event(model: str, text: str, reason: str, tokens: int) -> bytes:
    """One response of the model as one SSE event in one HTTP chunk. An unfinished stream's reason is "None"."""
    tensors = {
        "model_name": model,
        "model_version": "1",
        "finish_reason": reason,
        "num_input_tokens": PROMPT_TOKENS,
        "num_output_tokens": tokens,
        "text_output": text,
    }
    data = f"data: {json.dumps(tensors, separators=(',', ':'))}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def _metadata(model: str) -> dict[str, object]:
    def datatype(kind: str) -> str:
        return "BYTES" if kind == "STRING" else kind

    return {
        "name": model,
        "versions": ["1"],
        "platform": "vllm",
        "inputs": [{"name": name, "datatype": datatype(kind), "shape": [1]} for name, kind, _ in _INPUTS],
        "outputs": [{"name": name, "datatype": datatype(kind), "shape": [size]} for name, kind, size in _OUTPUTS],
    }


def _configuration(model: str) -> dict[str, object]:
    return {
        "name": model,
        "platform": "",
        "backend": "vllm",
        "max_batch_size": 0,
        "input": [
            {"name": name, "data_type": f"TYPE_{kind}", "dims": [1], "optional": optional}
            for name, kind, optional in _INPUTS
        ],
        "output": [{"name": name, "data_type": f"TYPE_{kind}", "dims": [size]} for name, kind, size in _OUTPUTS],
        "model_transaction_policy": {"decoupled": True},
    }
