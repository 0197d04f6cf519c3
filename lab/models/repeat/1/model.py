"""A decoupled model of tensors for tests: counts up to `times`, a response each `pause_ms`, until nobody listens."""

import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """The class that the stub looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Count what is sent."""
        family = pb_utils.MetricFamily(
            name="repeat_sent_total", description="Responses sent.", kind=pb_utils.MetricFamily.COUNTER
        )
        self._family, self._sent = family, family.Metric(labels={"model": args["model_name"]})

    def execute(self, requests: list[Any]) -> None:
        """One request after the other."""
        for request in requests:
            self._count(request, request.get_response_sender())

    def _count(self, request: Any, sender: Any) -> None:
        times = int(pb_utils.get_input_tensor_by_name(request, "times").as_numpy()[0])
        pause = pb_utils.get_input_tensor_by_name(request, "pause_ms")
        pause_s = 0.0 if pause is None else int(pause.as_numpy()[0]) / 1000
        for number in range(times):
            if sender.is_cancelled():
                break
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("number", np.array([number], np.int32))]))
            self._sent.increment(1)
            time.sleep(pause_s)
        sender.send(flags=FINAL)
