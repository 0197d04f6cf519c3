"""A byte-level n-gram model: how often each token followed each context of up to `order - 1` bytes in a text.

Orders are interpolated by absolute discounting (Ney, Essen and Kneser, 1994): every count gives up a little,
`discount`, and what is gathered so goes to the next shorter context. The floor is the distribution of single bytes in
the answers, so that no byte appears which they do not hold, and every byte which they do hold stays possible.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Probabilities = npt.NDArray[np.float64]

END = 256
"""The token that ends an output; the tokens below it are the bytes."""
VOCABULARY = 257
_CACHED = 8192  # distributions kept, 2 KiB each


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One training text."""

    prompt: str
    """All that stands before the answer, the answer's opening included."""
    answer: str


class NGram:
    """Tokens are the bytes of UTF-8, and END."""

    vocabulary = VOCABULARY
    end = END

    def __init__(self, dialogues: Sequence[Dialogue], order: int = 9, discount: float = 0.1) -> None:
        """Learns the answers, each taken to end with END. Raises ValueError when there is nothing to learn from."""
        if not dialogues:
            raise ValueError("an n-gram model needs at least one dialogue")
        self._order = order
        self._discount = discount
        self._counts = _count(dialogues, order)
        self._cache: dict[bytes, Probabilities] = {}

    def encode(self, text: str) -> list[int]:
        """The tokens of a prompt."""
        return list(text.encode())

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to the text; none for END."""
        return b"" if token == END else bytes((token,))

    def next(self, sequences: Sequence[Sequence[int]]) -> list[Probabilities]:
        """For each sequence of tokens the probabilities, shape [vocabulary], of the token after it."""
        return [self._after(bytes(sequence[-(self._order - 1) :])) for sequence in sequences]

    def _after(self, context: bytes) -> Probabilities:
        known = self._cache.get(context)
        if known is None:
            if len(self._cache) >= _CACHED:
                self._cache.clear()
            known = self._cache[context] = self._interpolate(context)
        return known

    def _interpolate(self, context: bytes) -> Probabilities:
        result = np.zeros(VOCABULARY)
        for length in range(min(len(context), self._order - 1) + 1):
            counts = self._counts.get(context[len(context) - length :])
            if counts is None:
                break
            tokens, numbers = np.fromiter(counts, np.intp), np.fromiter(counts.values(), np.float64)
            total, discount = numbers.sum(), self._discount if length else 0.0
            result *= discount * len(tokens) / total
            result[tokens] += (numbers - discount) / total
        result.setflags(write=False)
        return result


def _count(dialogues: Sequence[Dialogue], order: int) -> dict[bytes, Counter[int]]:
    """Only the answers' tokens are counted, so that the model never writes a question or a role's mark by itself."""
    counts: dict[bytes, Counter[int]] = {}
    for dialogue in dialogues:
        prompt, answer = dialogue.prompt.encode(), dialogue.answer.encode()
        data = prompt + answer
        for place, token in enumerate((*answer, END), start=len(prompt)):
            for length in range(min(place, order - 1) + 1):
                counts.setdefault(data[place - length : place], Counter())[token] += 1
    return counts


def read_dialogues(text: str, opening: str = "<|assistant|>\n") -> list[Dialogue]:
    """The dialogues of a corpus file: parted by empty lines; lines that begin with `#` are remarks.

    What follows the last `opening` is the answer. Raises ValueError for a dialogue without one.
    """
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    dialogues = []
    for part in filter(None, (part.strip("\n") for part in lines.split("\n\n"))):
        before, mark, answer = part.rpartition(opening)
        if not mark:
            raise ValueError(f"a dialogue without {opening!r}: {part[:40]!r}")
        dialogues.append(Dialogue(before + mark, answer))
    return dialogues
