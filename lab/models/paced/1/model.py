"""The vLLM tensor contract with a pace and failures to order, so that the roads to Triton can be held to their words.

A prompt that is a JSON object says how it wants to be answered (`Order`); any other text gets the defaults of
config.pbtxt. What it did is told through Triton's metrics, its times on the monotonic clock, which all processes of a
machine share.
"""

import json
import threading
import time
from collections import deque
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
POLL_S = 0.002
COUNTS = ("num_input_tokens", "num_output_tokens")


class Order:
    """How one prompt is to be answered."""

    def __init__(self, prompt: str, defaults: dict[str, float]) -> None:
        told: dict[str, Any] = json.loads(prompt) if prompt.startswith("{") else {}
        self.prefill_s = told.get("prefill_ms", defaults["prefill_ms"]) / 1000
        self.token_s = told.get("token_ms", defaults["token_ms"]) / 1000
        self.refuse: str | None = told.get("refuse")
        """Name of the TritonError to answer with, at once."""
        self.fail_after: int | None = told.get("fail_after")
        """Tokens before an error ends the answer."""
        self.late_end: bool = told.get("late_end", False)
        """Whether the end of the stream is a message of its own, as other backends send it."""
        self.padding: str = "x" * told.get("padding", 0)
        """Added to the text of each token."""
        self.first: str = told.get("first", "")
        """The text of the first token, in front of its number."""


class TritonPythonModel:
    """The class that the stub looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the defaults; start the thread that answers."""
        given = json.loads(args["model_config"])["parameters"]
        self._defaults = {name: float(given[name]["string_value"]) for name in ("prefill_ms", "token_ms")}
        self._told = Told({"model": args["model_name"], "version": args["model_version"]})
        self._new: deque[Answer] = deque()
        self._changed = threading.Event()
        threading.Thread(target=self._live, daemon=True).start()

    def execute(self, requests: list[Any]) -> None:
        """Hand them over; tensors cannot be read any more once this has returned."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                asked = Asked(request)
                order = Order(asked.prompt, self._defaults)
            except (ValueError, KeyError):  # told by an answer: raised, it would be all these requests' failure
                _fail(sender, pb_utils.TritonError.INVALID_ARG)
                continue
            self._new.append(Answer(asked, order, sender, self._told))
        self._changed.set()

    def _live(self) -> None:
        """One thread for all: 40 that set metrics at once ended the server by SIGSEGV (2.51.0, docs/decisions/0007)."""
        running: list[Answer] = []
        while True:
            if not running:
                self._changed.wait()
            self._changed.clear()
            while self._new:
                running.append(self._new.popleft())
            self._told.running(len(running))
            left = [one for one in running if one.step()]
            if len(left) < len(running):
                self._told.stopped()
                self._told.running(len(left))
            running = left
            if running and (pause := min(one.due for one in running) - time.monotonic()) > 0:
                self._changed.wait(min(pause, POLL_S))


class Answer:
    """One request on its way."""

    def __init__(self, asked: "Asked", order: Order, sender: Any, told: "Told") -> None:
        self._asked, self._order, self._sender, self._told = asked, order, sender, told
        self._number = 0
        self.due = time.monotonic() + order.prefill_s
        """When the next token is made."""

    def step(self) -> bool:
        """What there is to do now; whether anything is left."""
        order, pace = self._order, self._order.token_s if self._number else self._order.prefill_s
        if order.refuse:
            return self._fail(getattr(pb_utils.TritonError, order.refuse))
        if pace and self._sender.is_cancelled():  # one without a pace never asks: it floods
            return self._fail(pb_utils.TritonError.CANCELLED)
        if time.monotonic() < self.due:
            return True
        if self._number == order.fail_after:
            return self._fail(pb_utils.TritonError.INTERNAL)
        return self._token()

    def _token(self) -> bool:
        order, number = self._order, self._number
        self._told.token()
        self._number += 1
        last = self._number == self._asked.max_tokens
        text = f"{'' if number else order.first}{number} {order.padding}"
        self._sender.send(self._asked.response(text, last), flags=FINAL if last and not order.late_end else 0)
        if last and order.late_end:
            self._sender.send(flags=FINAL)
        self.due = time.monotonic() + order.token_s
        return not last

    def _fail(self, code: int) -> bool:
        _fail(self._sender, code)
        return False


class Asked:
    """What a request's tensors say."""

    def __init__(self, request: Any) -> None:
        self.prompt = _first(request, "text_input").decode()
        self.max_tokens: int = json.loads(_first(request, "sampling_parameters"))["max_tokens"]
        wanted = ("finish_reason", *COUNTS)
        self._returned = [name for name in wanted if bool(_first(request, f"return_{name}"))]
        self._size = len(self.prompt.encode())

    def response(self, text: str, last: bool) -> Any:
        """One token."""
        counts = dict(zip(COUNTS, (self._size, 1), strict=True))
        tensors = [_strings("text_output", text)]
        for name in self._returned:
            if name in counts:
                tensors.append(pb_utils.Tensor(name, np.array([counts[name]], np.uint32)))
            else:
                tensors.append(_strings(name, "length" if last else "None"))
        return pb_utils.InferenceResponse(output_tensors=tensors)


class Told:
    """What the tests measure by."""

    def __init__(self, labels: dict[str, str]) -> None:
        names = ("paced_tokens", "paced_running", "paced_stopped_at_seconds")
        gauge = pb_utils.MetricFamily.GAUGE
        # The families are kept because a family that is collected takes its metrics with it.
        self._families = [pb_utils.MetricFamily(name=name, description=name, kind=gauge) for name in names]
        self._number = 0
        self._tokens, self._running, self._stopped_at = (family.Metric(labels=labels) for family in self._families)

    def running(self, number: int) -> None:
        if number != self._number:  # each call crosses to the server's process
            self._number = number
            self._running.set(number)

    def stopped(self) -> None:
        self._stopped_at.set(time.monotonic())

    def token(self) -> None:
        self._tokens.increment(1)


def _fail(sender: Any, code: int) -> None:
    error = pb_utils.TritonError("insides of the model", code)
    sender.send(pb_utils.InferenceResponse(error=error), flags=FINAL)


def _first(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return b"" if tensor is None else tensor.as_numpy()[0]


def _strings(name: str, value: str) -> Any:
    return pb_utils.Tensor(name, np.array([value.encode()], np.object_))
