"""The forward pass in numpy: any mix of prompt chunks and single tokens in one call, over a KV cache in blocks.

Pre-norm decoder with RMSNorm, rotary positions, squared ReLU, tied embeddings; training/transformer.py is the same in
PyTorch. The matrix products run over all tokens of a step at once; attention runs over groups of like length.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .weights import Floats, Layer, Weights

EPSILON = np.float32(1e-5)
ROPE_BASE = 10000.0
HIDDEN = np.float32(-1e9)
"""Added to the score of a key that may not be seen; exp() makes it an exact zero."""
GROUP = 8
"""Most chunks whose attention is computed together: what is gathered for them should stay in the processor's cache."""
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one sequence to compute next: those at the positions from `start` on."""

    tokens: Sequence[int]
    start: int
    blocks: Sequence[int]
    """The sequence's blocks, in order; enough for start + len(tokens) positions."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Chunks of one length whose sequences have about as many blocks: their attention is one array operation."""

    rows: Indices
    """[chunks, length]: where their tokens stand in the step."""
    table: Indices
    """[chunks, blocks]"""
    mask: Floats
    """[chunks, 1, length, positions]: 0, or HIDDEN where a key is later than the query."""


class Transformer:
    """The model with its KV cache of `blocks` blocks of `block_size` positions each."""

    def __init__(self, weights: Weights, blocks: int, block_size: int, max_positions: int) -> None:
        self._weights = weights
        self._block_size = block_size
        self._head_width = weights.width // weights.heads
        shape = (len(weights.layers), blocks, block_size, weights.heads, self._head_width)
        self._keys = np.zeros(shape, np.float32)
        self._values = np.zeros(shape, np.float32)
        self._cosine, self._sine = _rotations(max_positions, self._head_width)

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return len(self._weights.embedding)

    def forward(self, chunks: Sequence[Chunk]) -> Floats:
        """Logits after the last token of each chunk, [chunks, vocabulary]; keys and values go into their blocks."""
        lengths = [len(chunk.tokens) for chunk in chunks]
        ends = np.cumsum(lengths)
        positions = np.concatenate([np.arange(c.start, c.start + n) for c, n in zip(chunks, lengths, strict=True)])
        places = self._places(chunks, lengths)
        groups = self._groups(chunks, ends)
        rotation = self._cosine[positions][:, None], self._sine[positions][:, None]
        x = self._weights.embedding[np.concatenate([np.asarray(chunk.tokens, np.intp) for chunk in chunks])]
        for index, layer in enumerate(self._weights.layers):
            x = x + self._attention(_normed(x), index, layer, places, groups, rotation) @ layer.out
            hidden = np.maximum(_normed(x) @ layer.up, 0)
            x = x + (hidden * hidden) @ layer.down
        logits: Floats = _normed(x[ends - 1]) @ self._weights.head
        return logits

    def _attention(
        self,
        x: Floats,
        index: int,
        layer: Layer,
        places: Indices,
        groups: Sequence[_Group],
        rotation: tuple[Floats, Floats],
    ) -> Floats:
        """x is [tokens, width], and so is what comes back: every head's weighted values side by side."""
        mixed = (x @ layer.qkv).reshape(len(x), 3, self._weights.heads, self._head_width)
        query, key = _rotated(mixed[:, 0], *rotation), _rotated(mixed[:, 1], *rotation)
        keys, values = self._keys[index], self._values[index]
        keys.reshape(-1, *keys.shape[2:])[places] = key
        values.reshape(-1, *values.shape[2:])[places] = mixed[:, 2]
        result = np.empty_like(query)
        for group in groups:
            seen = keys[group.table].reshape(len(group.table), -1, *keys.shape[2:])
            scores = query[group.rows].transpose(0, 2, 1, 3) @ seen.transpose(0, 2, 3, 1)
            scores += group.mask
            scores -= scores.max(-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(-1, keepdims=True)
            told = values[group.table].reshape(seen.shape).transpose(0, 2, 1, 3)
            result[group.rows] = (scores @ told).transpose(0, 2, 1, 3)
        return result.reshape(len(x), -1)

    def _places(self, chunks: Sequence[Chunk], lengths: Sequence[int]) -> Indices:
        """Where in the cache, seen as one row of positions, each token's key and value go: [tokens]."""
        size = self._block_size
        parts = []
        for chunk, length in zip(chunks, lengths, strict=True):
            positions = np.arange(chunk.start, chunk.start + length)
            parts.append(np.asarray(chunk.blocks, np.intp)[positions // size] * size + positions % size)
        return np.concatenate(parts)

    def _groups(self, chunks: Sequence[Chunk], ends: Indices) -> list[_Group]:
        """Equal chunk lengths, and block counts within a factor of two: so at most half of the work is padding."""
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, chunk in enumerate(chunks):
            used = self._used(chunk)
            alike[len(chunk.tokens), used.bit_length() if len(chunk.tokens) == 1 else -index - 1].append(index)
        parts = [members[i : i + GROUP] for members in alike.values() for i in range(0, len(members), GROUP)]
        return [self._group([chunks[i] for i in part], ends[part]) for part in parts]

    def _group(self, chunks: Sequence[Chunk], ends: Indices) -> _Group:
        length = len(chunks[0].tokens)
        used = [self._used(chunk) for chunk in chunks]
        table = np.zeros((len(chunks), max(used)), np.intp)
        for row, chunk in enumerate(chunks):
            table[row, : used[row]] = chunk.blocks[: used[row]]
        steps = np.arange(length)
        last = np.array([chunk.start for chunk in chunks])[:, None] + steps
        later = np.arange(table.shape[1] * self._block_size) > last[..., None]
        mask = np.where(later, HIDDEN, np.float32(0))[:, None]
        return _Group((ends - length)[:, None] + steps, table, mask)

    def _used(self, chunk: Chunk) -> int:
        return -(-(chunk.start + len(chunk.tokens)) // self._block_size)


def _rotations(positions: int, head_width: int) -> tuple[Floats, Floats]:
    """Cosine and sine of each position's angles: two of [positions, head_width / 2]."""
    steps = np.arange(head_width // 2) / (head_width // 2)
    angles = np.arange(positions)[:, None] * ROPE_BASE**-steps
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _rotated(x: Floats, cosine: Floats, sine: Floats) -> Floats:
    """x is [tokens, heads, head_width]: its halves are the two coordinates of points that turn by the angles."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return np.concatenate((first * cosine - second * sine, first * sine + second * cosine), -1)


def _normed(x: Floats) -> Floats:
    """Root mean square 1; the gain is in the matrix that comes next."""
    squares = np.einsum("...i,...i->...", x, x)[..., None] / np.float32(x.shape[-1])
    result: Floats = x / np.sqrt(squares + EPSILON)
    return result
