"""What the embeddings of triton_models/embed are made of: the demo model's states, and what they are good for."""

import numpy as np
import pytest
from tinyllm.plain import plain_logits, plain_states
from tinyllm.tokenizer import Vocabulary
from tinyllm.weights import Floats, Weights, read_weights

from tests.unit.triton_models.conftest import DEMO

PAIRS = [
    ("How is the weather today?", "I like rainy weather"),
    ("What do cats eat?", "Tell me about cats"),
    ("How do I bake bread?", "What is bread made of?"),
    ("Is coffee good for me?", "I drink coffee in the morning"),
    ("Where can I see the moon?", "The moon is bright tonight"),
    ("How do trains work?", "I took a train yesterday"),
    ("Tell me about the sea", "Why is the sea salty?"),
    ("What music do you like?", "I listen to music at night"),
]
"""Two sentences of one topic each."""


@pytest.fixture(scope="module")
def weights() -> Weights:
    return read_weights(DEMO)


def embedding(weights: Weights, text: str) -> Floats:
    mean = plain_states(weights, Vocabulary(DEMO / "tokenizer.json").encode(text)).mean(0, dtype=np.float32)
    found: Floats = mean / np.linalg.norm(mean)
    return found


def test_the_states_are_those_that_the_logits_are_made_of(weights: Weights) -> None:
    states = plain_states(weights, [5, 6, 7])
    normed = states / np.sqrt(np.mean(np.square(states), -1, keepdims=True) + 1e-5)
    assert np.allclose(normed @ weights.head, plain_logits(weights, [5, 6, 7]), atol=1e-4)


def test_sentences_of_one_topic_are_nearest_to_each_other_far_more_often_than_by_chance(weights: Weights) -> None:
    """docs/demo-model.md says how often: 6 of 16, where chance would find one."""
    vectors = np.stack([embedding(weights, text) for pair in PAIRS for text in pair])
    alike = vectors @ vectors.T - 2 * np.eye(len(vectors), dtype=np.float32)
    nearest = alike.argmax(1)
    hits = sum(int(nearest[index] == index ^ 1) for index in range(len(vectors)))
    assert hits >= 5
