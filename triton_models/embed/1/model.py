"""Embeddings out of the demo model: the mean of its last layer's states over a text's tokens, at length 1.

Whole and real, but no good embedder: the demo model learnt to answer, not to compare (docs/demo-model.md).
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

DEMO = Path(__file__).resolve().parents[2] / "demo"
"""The demo model's folder beside this one: its weights and tokenizer are used, nothing is copied."""
sys.path.insert(0, str(DEMO / "1"))

from tinyllm.plain import plain_states
from tinyllm.tokenizer import Vocabulary
from tinyllm.weights import Floats, read_weights


class TritonPythonModel:
    """The class that the stub looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the demo model."""
        self._weights = read_weights(DEMO)
        self._vocabulary = Vocabulary(DEMO / "tokenizer.json")

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request: text [N, 1] to embedding [N, width]."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        texts = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
        try:
            rows = [self._embedding(text.decode()) for text in texts]
        except UnicodeDecodeError:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("text is not valid UTF-8"))
        return pb_utils.InferenceResponse([pb_utils.Tensor("embedding", np.stack(rows))])

    def _embedding(self, text: str) -> Floats:
        tokens = self._vocabulary.encode(text) or [self._vocabulary.end]
        mean = plain_states(self._weights, tokens).mean(0, dtype=np.float32)
        embedding: Floats = mean / np.linalg.norm(mean)
        return embedding
