"""What an engine needs around it: a model whose answers are known, a sink that remembers, counters in memory."""

import threading
from collections.abc import Sequence

import numpy as np
from tinyllm.requests import Piece, PromptTokens
from tinyllm.transformer import Chunk
from tinyllm.weights import Floats, Layer, Weights

END = 256
WAIT_S = 30.0


class Letters:
    """One token a byte, and END."""

    end = END
    longest = 1

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token: int) -> bytes:
        return b"" if token == END else bytes((token,))

    def name(self, token: int) -> str:
        return "<|end|>" if token == END else chr(token)


class Script:
    """A model that writes the alphabet over and over, and END after `length` letters.

    Its cache holds the tokens themselves, and it answers from what it reads there: a block that was lost, shared by
    mistake or filled with something else changes the answer.
    """

    def __init__(self, length: int = 10_000, prompt: int = 1, block_size: int = 16, blocks: int = 1024) -> None:
        self.length = length
        self.prompt = prompt
        self.cache = np.full((blocks, block_size), -1)
        self.gate = threading.Semaphore(0)
        self.gated = False
        self.steps: list[list[int]] = []
        """Tokens computed for each chunk of each step."""

    def forward(self, chunks: Sequence[Chunk]) -> Floats:
        if self.gated:
            assert self.gate.acquire(timeout=WAIT_S)
        self.steps.append([len(chunk.tokens) for chunk in chunks])
        return np.array([self._one(self._read(chunk)) for chunk in chunks], np.float32)

    def _read(self, chunk: Chunk) -> list[int]:
        size = self.cache.shape[1]
        for position, token in enumerate(chunk.tokens, chunk.start):
            self.cache[chunk.blocks[position // size], position % size] = token
        return [int(self.cache[chunk.blocks[p // size], p % size]) for p in range(chunk.start + len(chunk.tokens))]

    def _one(self, sequence: list[int]) -> Floats:
        assert -1 not in sequence
        written = len(sequence) - self.prompt
        weights = np.full(END + 1, 1e-12)
        # What comes next depends on every token before it.
        weights[END if written >= self.length else ord("a") + written % 26] = 0.9
        weights[ord("A") + sum(i * token for i, token in enumerate(sequence, 1)) % 26] += 0.1
        logits: Floats = np.log(weights).astype(np.float32)
        return logits


class Reply:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.steps: list[list[Piece]] = []
        self.prompt_tokens = self.cached_tokens = 0
        self.gone = False
        self.asked = 0
        self.dropped = threading.Event()
        self.failures = 0
        self.failed = threading.Event()
        self.done = threading.Event()

    def cancelled(self) -> bool:
        self.asked += 1
        return self.gone

    def send(self, prompt: PromptTokens, pieces: list[Piece], last: bool) -> None:
        self.prompt_tokens, self.cached_tokens = prompt
        self.steps.append(pieces)
        if last:
            self.done.set()

    def drop(self) -> None:
        self.dropped.set()

    def fail(self) -> None:
        self.failures += 1
        self.failed.set()

    def text(self, index: int = 0) -> str:
        assert self.done.wait(WAIT_S)
        return "".join(step[index].text for step in self.steps)


class Count:
    """Counters in memory."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.cached = 0
        self.tokens = 0
        self.preemptions = 0
        self.loads: list[tuple[int, int, float]] = []

    def prompt(self, tokens: int, cached: int) -> None:
        self.prompt_tokens += tokens
        self.cached += cached

    def generated(self, tokens: int) -> None:
        self.tokens += tokens

    def preempted(self) -> None:
        self.preemptions += 1

    def load(self, running: int, waiting: int, kv_usage: float) -> None:
        self.loads.append((running, waiting, kv_usage))


def small_weights(vocabulary: int = END + 1, width: int = 32, heads: int = 4, layers: int = 3) -> Weights:
    """A transformer that has learnt nothing, with numbers large enough that every part of it matters."""
    random = np.random.default_rng(7)

    def matrix(rows: int, columns: int) -> Floats:
        made: Floats = (random.standard_normal((rows, columns)) / rows**0.5).astype(np.float32)
        return made

    made = tuple(
        Layer(matrix(width, 3 * width), matrix(width, width), matrix(width, 4 * width), matrix(4 * width, width))
        for _ in range(layers)
    )
    return Weights(heads, matrix(vocabulary, width) * 4, matrix(width, vocabulary) * 3, made)
