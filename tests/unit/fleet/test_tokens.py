"""A bound is never below the count, whatever the tokenizer does to a text first."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.normalizers import Normalizer

from gateway.fleet.file import FleetError
from gateway.fleet.tokens import (
    GROWTH,
    LONG_TEXT,
    LONGEST_PREFIX,
    UNBOUNDED,
    ByteCounter,
    TokenCounter,
    TokenizerCounter,
    count_each,
    read_counter,
)


def byte_level(normalizer: Normalizer | None = None, *, prefix_space: bool = False) -> TokenizerCounter:
    """The worst tokenizer of its kind: it never joins two bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return TokenizerCounter(tokenizer)


COUNTERS: dict[str, TokenCounter] = {
    "bytes": ByteCounter(),
    "byte level": byte_level(),
    "byte level, NFC": byte_level(normalizers.NFC()),
    "byte level, NFD": byte_level(normalizers.NFD()),
    "byte level, NFKC": byte_level(normalizers.NFKC()),
    "byte level, NFKD": byte_level(normalizers.NFKD()),
    "byte level, NFC and NFKD": byte_level(normalizers.Sequence([normalizers.NFC(), normalizers.NFKD()])),
    "byte level, lower case": byte_level(normalizers.Lowercase()),
    "byte level, prefix": byte_level(normalizers.Prepend("__")),
    "byte level, space in front": byte_level(prefix_space=True),
    "the demo's": read_counter("tokenizer.json", Path("triton_models/demo/tokenizer.json")),
}


@pytest.mark.parametrize("name", COUNTERS)
@given(text=st.text(max_size=50) | st.sampled_from(["", "\u0958" * 9, "ﷺ", "a", "猫😺"]))
def test_a_bound_is_never_below_the_count_nor_a_floor_above_it(name: str, text: str) -> None:
    counter = COUNTERS[name]
    count = asyncio.run(counter.count(text))
    assert counter.floor(text) <= count <= counter.bound(text)
    if counter.exact:
        assert count == counter.bound(text)


@pytest.mark.parametrize("name", COUNTERS)
@given(unit=st.text(min_size=1, max_size=8) | st.sampled_from(["\u0958", "\u0390", "\U0001d160", "ﷺ", "İ", "e\u0301"]))
@settings(max_examples=5, deadline=None)
def test_neither_is_it_for_a_text_too_long_to_be_normalized(name: str, unit: str) -> None:
    counter, text = COUNTERS[name], unit * (LONG_TEXT // len(unit) + 1)
    assert len(text) > LONG_TEXT
    count = asyncio.run(counter.count(text))
    assert counter.floor(text) <= count <= counter.bound(text)


@pytest.mark.parametrize("form", GROWTH)
def test_no_letter_grows_more_in_a_form_of_unicode_than_is_reckoned_with(form: type[Normalizer]) -> None:
    letters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000 and code != 10]
    normalized = form().normalize_str("\n".join(letters)).split("\n")
    growth = {len(to.encode()) / len(of.encode()) for of, to in zip(letters, normalized, strict=True)}
    assert max(growth) == GROWTH[form]
    assert normalized[:127] == letters[:127]  # ASCII


class Watched:
    """A normalizer that remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def normalize_str(self, text: str) -> str:
        self.given.append(text)
        return text


@pytest.mark.parametrize(
    ("normalizer", "bound"), [(normalizers.NFC(), LONG_TEXT + 1 + LONGEST_PREFIX), (normalizers.Lowercase(), UNBOUNDED)]
)
def test_a_long_text_is_bounded_without_being_normalized(
    normalizer: Normalizer, bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter, watched = byte_level(normalizer), Watched()
    monkeypatch.setattr(counter, "_normalizer", watched)
    assert counter.bound("x" * (LONG_TEXT + 1)) == bound
    counter.bound("é" * (LONG_TEXT + 1))
    assert watched.given == []
    counter.bound("é" * LONG_TEXT)
    assert len(watched.given) == 1


def test_a_floor_is_told_only_where_no_text_can_vanish() -> None:
    assert byte_level().floor("x" * 100) == 50  # the alphabet's letters are up to two bytes
    assert byte_level(normalizers.NFKC()).floor("x" * 100) == 0
    assert TokenizerCounter(Tokenizer(BPE({"a": 0}, []))).floor("x" * 100) == 0


async def test_a_long_text_counts_as_its_parts_do() -> None:
    assert await byte_level().count("ab " * LONG_TEXT) == 3 * LONG_TEXT


@pytest.mark.parametrize("counter", [byte_level(), ByteCounter()])
async def test_many_texts_count_as_each_of_them_does(counter: TokenCounter) -> None:
    for texts in ([], ["ab", "", "猫"], ["ab " * LONG_TEXT, "x"]):
        assert await count_each(counter, texts) == [await counter.count(text) for text in texts]


def test_a_tokenizer_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text("{}")
    for path in (tmp_path / "none.json", tmp_path / "t.json"):
        with pytest.raises(FleetError):
            read_counter("t.json", path)
    assert read_counter("bytes", tmp_path).exact
