"""A bound is never below the count, whatever the tokenizer does to a text first."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.normalizers import Normalizer

from gateway.fleet.file import FleetError
from gateway.fleet.tokens import LONG_TEXT, ByteCounter, TokenCounter, TokenizerCounter, count_each, read_counter


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
    "byte level, NFKC": byte_level(normalizers.NFKC()),
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
