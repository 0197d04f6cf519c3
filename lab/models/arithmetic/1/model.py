"""Tensors for tests: sums and products, every datatype there and back, and failures to order."""

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The class that the stub looks for."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request."""
        return [_answer(request) for request in requests]


def _answer(request: Any) -> Any:
    order = _tensor(request, "order")
    if order is not None and order[0] == b"fail":
        return pb_utils.InferenceResponse(error=pb_utils.TritonError("insides of the model"))
    a, b = _tensor(request, "a"), _tensor(request, "b")
    words = a[:0].astype(np.object_) if order is None else order[::-1]
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("sum", a + b),
            pb_utils.Tensor("product", (a * b).astype(np.float64)),
            pb_utils.Tensor("words", words),
        ]
    )


def _tensor(request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy()
