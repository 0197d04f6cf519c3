"""The forward pass as one would write it on a board: one sequence, no cache, no batch. The oracle of the tests, and
what triton_models/embed makes its embeddings of."""

from collections.abc import Sequence

import numpy as np

from .transformer import EPSILON, HIDDEN, ROPE_BASE
from .weights import Floats, Weights


def plain_logits(weights: Weights, tokens: Sequence[int]) -> Floats:
    """Logits after every token, [tokens, vocabulary]."""
    logits: Floats = _norm(plain_states(weights, tokens)) @ weights.head
    return logits


def plain_states(weights: Weights, tokens: Sequence[int]) -> Floats:
    """What the last layer leaves of every token, [tokens, width]."""
    width, heads = weights.width, weights.heads
    head_width = width // heads
    steps = np.arange(head_width // 2) / (head_width // 2)
    turns = np.exp(1j * np.arange(len(tokens))[:, None] * ROPE_BASE**-steps)
    later = np.triu(np.full((len(tokens), len(tokens)), HIDDEN), 1)
    x = weights.embedding[np.asarray(tokens)]
    for layer in weights.layers:
        mixed = _norm(x) @ layer.qkv
        attended = np.empty_like(x)
        for head in range(heads):
            part = slice(head * head_width, (head + 1) * head_width)
            query, key = _turned(mixed[:, :width][:, part], turns), _turned(mixed[:, width:][:, part], turns)
            scores = np.exp(query @ key.T + later)
            attended[:, part] = scores @ mixed[:, 2 * width :][:, part] / scores.sum(-1, keepdims=True)
        x = x + attended @ layer.out
        x = x + np.square(np.maximum(_norm(x) @ layer.up, 0)) @ layer.down
    states: Floats = x
    return states


def _norm(x: Floats) -> Floats:
    result: Floats = x / np.sqrt(np.mean(np.square(x), -1, keepdims=True) + EPSILON)
    return result


def _turned(x: Floats, turns: np.ndarray[tuple[int, ...], np.dtype[np.complex128]]) -> Floats:
    """Pairs of coordinates as complex numbers, turned by their positions' angles."""
    half = x.shape[1] // 2
    turned = (x[:, :half] + 1j * x[:, half:]) * turns
    result: Floats = np.concatenate((turned.real, turned.imag), 1).astype(np.float32)
    return result
