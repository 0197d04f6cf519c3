"""Two trained models side by side: are their files the same, and do their voices follow the system prompt as often?"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .measure import Rate

FILES = ("tokenizer.json", "weights.npz")
"""What makes an answer, given the prompt and the seed."""
POINTS = 2.0
"""Most that the rates of two models may lie apart, in percent of all answers."""


@dataclass(frozen=True, slots=True)
class Share:
    """Answers with a cat's words, in percent of all that were asked with the cat sentence, or without it."""

    wanted: bool
    answers: int
    cat: float


def shares(rates: Sequence[Rate]) -> tuple[Share, Share]:
    """Over all cases without the cat sentence, and over all with it."""
    without, with_sentence = (_share([rate for rate in rates if rate.wanted == wanted]) for wanted in (False, True))
    return without, with_sentence


def apart(ours: Sequence[Rate], theirs: Sequence[Rate]) -> float:
    """How many points the two models' shares lie apart, where they do so the most."""
    return max(abs(one.cat - other.cat) for one, other in zip(shares(ours), shares(theirs), strict=True))


def checksums(one: Path, other: Path) -> Iterator[tuple[str, str, str]]:
    """Name and both SHA-256 sums, in hexadecimal, of each of FILES in two folders."""
    for name in FILES:
        ours, theirs = (hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in (one, other))
        yield name, ours, theirs


def _share(rates: Sequence[Rate]) -> Share:
    answers = sum(rate.answers for rate in rates)
    return Share(rates[0].wanted, answers, sum(rate.cat * rate.answers for rate in rates) / answers)
