"""How many tokens a text is: a bound that costs nothing, and the exact count for when the bound is not enough."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import NFC, NFD, NFKC, NFKD, Normalizer
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import ByteLevel

from gateway.fleet.file import FleetError

LONG_TEXT = 4096
"""Characters past which a text is counted off the event loop (1 KB takes 0.3 ms, 100 KB 34 to 54 ms)."""

LONGEST_PREFIX = 3
"""Bytes that a pre-tokenizer may put in front of a text: a space, or SentencePiece's mark U+2581."""

GROWTH: dict[type[Normalizer], int] = {NFC: 3, NFD: 3, NFKC: 11, NFKD: 11}
"""How many times its bytes in UTF-8 a text can have in each of Unicode's forms. None of them changes ASCII."""

UNBOUNDED = 1 << 62
"""More tokens than any context takes: the text has to be counted."""


Aside = Callable[[Callable[[], list[int]]], Awaitable[list[int]]]
"""Does long work off the event loop: a thread of its own, or a turn among others."""


class TokenCounter(Protocol):
    """Counts tokens as one model does."""

    exact: bool
    """The bound is the count."""
    local: bool
    """Where a word ends and a space begins another one, what stands before changes no token of what stands behind."""

    def bound(self, text: str) -> int:
        """Never fewer than `count`, at once."""

    def floor(self, text: str) -> int:
        """Never more than `count`, at once."""

    async def count(self, text: str) -> int:
        """The number of tokens."""

    def count_now(self, text: str) -> int:
        """The same, on the event loop however long it takes."""


class ByteCounter:
    """A model that reads bytes."""

    exact = local = True

    def bound(self, text: str) -> int:
        """See TokenCounter."""
        return len(text) if text.isascii() else len(text.encode())

    floor = count_now = bound

    async def count(self, text: str) -> int:
        """See TokenCounter."""
        return self.bound(text)


class TokenizerCounter:
    """A model with a `tokenizer.json`. A byte-level tokenizer never makes more tokens than there are bytes, once the
    text is normalized and has what is put in front of it. Long texts are not normalized to bound them (a second for
    5 MB): what Unicode's forms can make of them is known, and what others can is `UNBOUNDED`."""

    exact = False

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._normalizer = tokenizer.normalizer
        self._growth = growth(tokenizer.normalizer)
        self._longest = longest_token(tokenizer)
        self.local = splits_words(tokenizer)

    def bound(self, text: str) -> int:
        """See TokenCounter."""
        if self._growth is not None and text.isascii():
            return LONGEST_PREFIX + len(text)
        if self._normalizer is not None and len(text) <= LONG_TEXT:
            return LONGEST_PREFIX + len(self._normalizer.normalize_str(text).encode())
        return UNBOUNDED if self._growth is None else LONGEST_PREFIX + self._growth * len(text.encode())

    def floor(self, text: str) -> int:
        """See TokenCounter. Characters are no more than bytes, so they will do."""
        return -(-len(text) // self._longest) if self._longest else 0

    async def count(self, text: str) -> int:
        """See TokenCounter."""
        return (await self.count_each([text]))[0]

    async def count_each(self, texts: Sequence[str], aside: Aside = asyncio.to_thread) -> list[int]:
        """`count` of each text, all of them `aside` when they are long together."""
        if sum(map(len, texts)) <= LONG_TEXT:
            return [self.count_now(text) for text in texts]
        return await aside(lambda: [self.count_now(text) for text in texts])

    def count_now(self, text: str) -> int:
        """See TokenCounter."""
        # `encode_batch` lets other threads run meanwhile; `encode` does not.
        return len(self._tokenizer.encode_batch([text], add_special_tokens=False)[0].ids)


def splits_words(tokenizer: Tokenizer) -> bool:
    """Whether texts are split into words, each with the space before it, before anything is merged; nothing may have
    changed them by then."""
    whole = tokenizer.normalizer is None and type(tokenizer.model) is BPE
    first = tokenizer.pre_tokenizer
    return whole and isinstance(first, ByteLevel) and first.use_regex


def growth(normalizer: Normalizer | None) -> int | None:
    """How many times its bytes a text can have once it is normalized; None where that is not known."""
    if normalizer is None:
        return 1
    if isinstance(normalizer, Normalizers):
        each = [growth(one) for one in normalizer]  # type: ignore[attr-defined]
        known = [times for times in each if times is not None]
        return math.prod(known) if len(known) == len(each) else None
    return GROWTH.get(type(normalizer))


def longest_token(tokenizer: Tokenizer) -> int:
    """The most bytes of a text that one token can stand for; 0 where that cannot be told: a normalizer, a model that
    does not know every byte or a special token that swallows spaces may drop any amount of text."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    swallows = any(token.lstrip or token.rstrip for token in tokenizer.get_added_tokens_decoder().values())
    if tokenizer.normalizer is not None or swallows or not vocabulary.keys() >= set(ByteLevel.alphabet()):
        return 0
    return max(len(token.encode()) for token in vocabulary)


async def count_each(counter: TokenCounter, texts: Sequence[str], aside: Aside = asyncio.to_thread) -> list[int]:
    """The number of tokens of each of many texts; where counting them takes long, it is done `aside`."""
    if isinstance(counter, TokenizerCounter):
        return await counter.count_each(texts, aside)
    return [await counter.count(text) for text in texts]


def read_counter(tokenizer: str, path: Path) -> TokenCounter:
    """The counter that a fleet entry's `tokenizer` names. Raises FleetError."""
    if tokenizer == "bytes":
        return ByteCounter()
    if not path.is_file():
        raise FleetError(f"The tokenizer {path} is not there; give a tokenizer.json or 'bytes'.")
    try:
        return TokenizerCounter(Tokenizer.from_file(str(path)))
    except Exception as problem:  # the library raises nothing narrower
        raise FleetError(f"The tokenizer {path} cannot be read.") from problem
