"""Whether an embedded Triton serves, seen from outside. Its own word is not enough: `/v2/health/ready` and a model's
`ready` stay 200 while the model's process (the stub) is dead or stands still.

    dead     the server keeps the stub as a zombie, and says nothing; seen in /proc
    stopped  the same, in another state
    stuck    asked, the model does not answer

The question for the last must not be one that honest work delays: one real token waits for minutes behind a full queue.
So the model is asked for what it must refuse (parameters that are no JSON): that goes the whole way, HTTP, shared
memory, Python and back, and ends before the queue. Measured with 301 requests waiting: 2 to 60 ms; one token: over 8 s.
"""

import json

from gateway.embedded.probe import http_answers, http_words
from gateway.embedded.process import children, lists_children, lives, stopped

QUESTION = json.dumps({"text_input": "", "sampling_parameters": "{"}).encode()
UNHEALTHY = b"is not healthy"
"""In the server's answer for a stub that has not moved a flag in shared memory within a second."""


def dead_stub(pid: int, wanted: int) -> str | None:
    """Why the server `pid` cannot serve: fewer than `wanted` of its stubs live."""
    if not lists_children(pid):
        return None  # just ended (the supervisor sees that itself), or a kernel that does not list children
    living = sum(lives(child) for child in children(pid))
    return None if living >= wanted else f"a model's process is gone ({living} of {wanted} live)"


async def unanswered(pid: int, host: str, port: int, models: list[str]) -> str | None:
    """What of the server `pid` does not answer, or None.

    `models` are those with the vLLM backend's tensors: only of them it is known what they refuse.
    """
    if any(stopped(child) for child in children(pid)):
        return "a model's process is stopped by a signal"
    if not await http_answers(host, port, "/v2/health/live"):
        return "the server does not answer"
    for model in models:
        answer = await http_words(host, port, f"/v2/models/{model}/generate", QUESTION)
        if not answer or UNHEALTHY in answer:
            return f"the model {model} does not answer"
    return None
