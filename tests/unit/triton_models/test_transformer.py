"""The forward pass over blocks, batches, chunks and cached beginnings holds to the plain one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinyllm.plain import plain_logits
from tinyllm.tokenizer import Vocabulary
from tinyllm.transformer import Chunk, Transformer
from tinyllm.weights import Floats, read_weights

from tests.unit.triton_models.engine_parts import small_weights

DEMO = Path(__file__).parents[3] / "triton_models" / "demo"
WEIGHTS = small_weights()
BLOCK = 4
EXACT = 1e-4
"""Logits are of the order of 1 to 10; float32 in another order of summing differs by about 1e-6."""


class Seat:
    """One sequence in a cache: which of its tokens are computed, and in which blocks."""

    def __init__(self, tokens: Sequence[int], blocks: Sequence[int], computed: int = 0) -> None:
        self.tokens = list(tokens)
        self.blocks = list(blocks)
        self.computed = computed

    def chunk(self, length: int) -> Chunk:
        begin, self.computed = self.computed, min(self.computed + length, len(self.tokens))
        return Chunk(self.tokens[begin : self.computed], begin, self.blocks)

    def expected(self) -> Floats:
        logits: Floats = plain_logits(WEIGHTS, self.tokens[: self.computed])[-1]
        return logits


def seats(lengths: Sequence[int], seed: int = 0) -> tuple[Transformer, list[Seat]]:
    """Sequences of these lengths whose blocks lie all over the cache."""
    random = np.random.default_rng(seed)
    needed = [-(-length // BLOCK) for length in lengths]
    blocks = iter(random.permutation(sum(needed) + 3).tolist())
    made = [
        Seat(random.integers(0, 257, length).tolist(), [next(blocks) for _ in range(number)])
        for length, number in zip(lengths, needed, strict=True)
    ]
    return Transformer(WEIGHTS, sum(needed) + 3, BLOCK, 256), made


def same(model: Transformer, taken: Sequence[Seat], lengths: Sequence[int]) -> None:
    logits = model.forward([seat.chunk(length) for seat, length in zip(taken, lengths, strict=True)])
    for seat, row in zip(taken, logits, strict=True):
        np.testing.assert_allclose(row, seat.expected(), atol=EXACT)


def test_a_whole_prompt_in_one_chunk_has_the_plain_logits() -> None:
    model, (seat,) = seats([37])
    same(model, [seat], [37])


def test_token_by_token_has_the_plain_logits_at_every_step() -> None:
    model, (seat,) = seats([23])
    for _ in range(23):
        same(model, [seat], [1])


def test_a_batch_of_very_unlike_lengths_has_the_plain_logits() -> None:
    model, taken = seats([3, 90, 17, 41, 90])
    same(model, taken, [2, 60, 16, 40, 89])
    same(model, taken, [1, 30, 1, 1, 1])


def test_a_beginning_computed_for_another_sequence_serves_as_well_as_one_s_own() -> None:
    model, (first, second) = seats([24, 30])
    same(model, [first], [24])
    second.tokens[:16], second.blocks[:4], second.computed = first.tokens[:16], first.blocks[:4], 16
    same(model, [first, second][1:], [14])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.data())
def test_any_mixture_of_chunks_has_the_plain_logits(lengths: list[int], data: st.DataObject) -> None:
    model, taken = seats(lengths, seed=sum(lengths))
    while left := [seat for seat in taken if seat.computed < len(seat.tokens)]:
        chosen = data.draw(st.lists(st.sampled_from(range(len(left))), min_size=1, unique=True))
        step = [data.draw(st.integers(1, 40)) for _ in chosen]
        same(model, [left[index] for index in chosen], step)


def test_the_trained_model_has_the_plain_logits_in_a_batch_of_chats() -> None:
    weights, vocabulary = read_weights(DEMO), Vocabulary(DEMO / "tokenizer.json")
    model = Transformer(weights, 64, 16, 256)
    asked = ["Tell me about tea", "Hello", "Do you like the sea? I do, and my sister too."]
    prompts = [vocabulary.encode(f"<|user|>\n{text}\n<|assistant|>\n") for text in asked]
    chunks = [Chunk(tokens, 0, range(8 * index, 8 * index + 8)) for index, tokens in enumerate(prompts)]
    for tokens, row in zip(prompts, model.forward(chunks), strict=True):
        np.testing.assert_allclose(row, plain_logits(weights, tokens)[-1], atol=EXACT)


def test_weights_that_are_not_the_trained_ones_are_refused(tmp_path: Path) -> None:
    data = bytearray((DEMO / "weights.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "weights.npz").write_bytes(data)
    (tmp_path / "weights.sha256").write_text((DEMO / "weights.sha256").read_text())
    with pytest.raises(ValueError, match=r"not the file that weights\.sha256 names"):
        read_weights(tmp_path)


def test_the_weights_are_small_and_the_model_has_one_to_four_million_parameters() -> None:
    weights = read_weights(DEMO)
    parameters = weights.embedding.size + sum(
        matrix.size for layer in weights.layers for matrix in (layer.qkv, layer.out, layer.up, layer.down)
    )
    assert 1e6 < parameters < 4e6
    assert (DEMO / "weights.npz").stat().st_size < 8e6
