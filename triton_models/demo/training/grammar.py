"""The grammar's words, read from grammar/*.toml, and the rule that keeps part of what it can say for evaluation."""

import hashlib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "grammar"
LEXICON = Path(__file__).parents[1] / "cat_lexicon.txt"
HELD_OUT_OF_256 = 32
"""How many of 256 hash values are kept for evaluation: an eighth of all pairs."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What can be asked, and what is answered: plainly, as a cat, in one word."""

    name: str
    kind: str
    """`topic` (asked through the forms of voice.toml) or `smalltalk` (asked in its own words)."""
    ask: tuple[str, ...]
    facts: tuple[str, ...]
    tips: tuple[str, ...]
    cat: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grammar:
    """Everything that the corpus is made of."""

    topics: tuple[Subject, ...]
    smalltalk: tuple[Subject, ...]
    unknown: Subject
    """How to answer what nobody can understand."""
    voice: dict[str, Any]


def read_grammar() -> Grammar:
    """The grammar in the repository."""
    topics = tuple(
        Subject(name, "topic", (), tuple(of["facts"]), tuple(of["tips"]), tuple(of["cat"]), tuple(of["words"]))
        for name, of in _read("topics").items()
    )
    small = {
        name: Subject(name, "smalltalk", tuple(of["ask"]), tuple(of["plain"]), (), tuple(of["cat"]), tuple(of["words"]))
        for name, of in _read("smalltalk").items()
    }
    unknown = small.pop("unknown")
    return Grammar(topics, tuple(small.values()), unknown, _read("voice"))


def held_out(*parts: str) -> bool:
    """Whether this combination is kept from training: decided by its hash, so by construction and for good."""
    return hashlib.sha256("|".join(parts).encode()).digest()[0] < HELD_OUT_OF_256


def read_lexicon() -> frozenset[str]:
    """The words of a cat's voice."""
    lines = LEXICON.read_text().splitlines()
    return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def cat_words(text: str, lexicon: frozenset[str]) -> list[str]:
    """The words of `text` that only a cat would say."""
    return [word for word in re.findall(r"[a-z]+", text.lower()) if word in lexicon]


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text())
