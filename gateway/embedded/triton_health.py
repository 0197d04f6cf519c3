"""Whether an embedded Triton serves, seen from outside. Its own word is not enough: `/v2/health/ready` and a model's
`ready` stay 200 while the model's process (the stub) is dead or stands still.

    dead     the server keeps the stub as a zombie, and says nothing; seen in /proc
    stopped  the same, in another state
    stuck    asked, the model does not answer
    stalled  it answers, has requests, and makes no tokens (progress.py)

The question that shows a stuck one must not be one that honest work delays: one real token waits for minutes behind a
full queue. So the model is asked for what it must refuse (parameters that are no JSON): that goes all the way, HTTP,
shared memory, Python and back, and ends before the queue. With 301 requests waiting it took 2 to 60 ms; one token over
8 s. To Triton an answer is a success, a refusal too; it costs no token.
"""

import json
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from gateway.embedded.probe import http_answers, http_page, http_words
from gateway.embedded.process import children, lists_children, lives, stopped
from gateway.embedded.progress import Progress
from gateway.fleet.file import Endpoint

QUESTION = json.dumps({"text_input": "", "sampling_parameters": "{"}).encode()
UNHEALTHY = b"is not healthy"
"""In the server's answer for a stub that has not moved a flag in shared memory within a second."""


def dead_stub(pid: int, wanted: int) -> str | None:
    """Why the server `pid` cannot serve: fewer than `wanted` of its stubs live."""
    if not lists_children(pid):
        return None  # just ended (the supervisor sees that itself), or a kernel that does not list children
    living = sum(lives(child) for child in children(pid))
    return None if living >= wanted else f"a model's process is gone ({living} of {wanted} live)"


class Look:
    """The question to one server, asked every second (see Service.look)."""

    def __init__(self, endpoint: Endpoint, models: Sequence[str]) -> None:
        """`models` are those with the vLLM backend's tensors: only of them it is known what they refuse."""
        self._host, self._port = endpoint.address
        self._metrics = endpoint.metrics
        self._progress = {model: Progress(model) for model in models}

    async def __call__(self, pid: int) -> str | None:
        """What of the server `pid` does not answer or does not go on, or None."""
        if any(stopped(child) for child in children(pid)):
            return "a model's process is stopped by a signal"
        if not await http_answers(self._host, self._port, "/v2/health/live"):
            return "the server does not answer"
        for model in self._progress:
            answer = await http_words(self._host, self._port, f"/v2/models/{model}/generate", QUESTION)
            if not answer or UNHEALTHY in answer:
                return f"the model {model} does not answer"
        return await self._stalled()

    async def _stalled(self) -> str | None:
        if self._metrics is None:
            return None
        url = urlsplit(self._metrics)
        page = await http_page(url.hostname or "", url.port or 80, url.path)
        now = time.monotonic()
        # Of every model, also behind one that has stalled: each has to see its own numbers go on.
        stalled = [model for model, progress in self._progress.items() if progress.stalled(now, page)]
        return f"the model {stalled[0]} has requests and makes no tokens" if stalled else None
