"""Folding, beside its definition: the definition is short, and the function is fast."""

import re
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core import fold as folding
from gateway.core.fold import fold


def defined(text: str) -> str:
    """What folding is, a step at a time."""
    if not text.isascii():
        text = folding._INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    return re.sub(r"\s+", " ", text.casefold()).strip()


SPACES = [chr(point) for point in range(sys.maxunicode + 1) if chr(point).isspace()]
WORDS = st.text(st.characters() | st.sampled_from([*SPACES, "\u200b", "\u00ad", "ß", "İ", "ﬁ", "\ud800", "Σ", "ς"]))


@settings(max_examples=300, deadline=None)
@given(WORDS)
def test_any_text_is_folded_as_it_is_defined(text: str) -> None:
    assert fold(text) == defined(text)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="ascii")))
def test_ascii_is_folded_as_it_is_defined(text: str) -> None:
    assert fold(text) == defined(text)


def test_every_character_is_folded_as_it_is_defined_among_others() -> None:
    for first in range(0, sys.maxunicode + 1, 256):
        text = "".join(f"A {chr(point)}b" for point in range(first, first + 256))
        assert fold(text) == defined(text)


POINTS = map(chr, range(0x80, sys.maxunicode + 1))
MARKS = [point for point in POINTS if unicodedata.combining(unicodedata.normalize("NFKD", point)[0])]


@settings(max_examples=100, deadline=None)
@given(WORDS, st.lists(st.sampled_from(MARKS) | st.sampled_from("\u1e69\u200b!¡…a"), min_size=30, max_size=120), WORDS)
def test_long_runs_of_combining_marks_are_folded_as_it_is_defined(before: str, marks: list[str], after: str) -> None:
    text = before + "".join(marks) + after
    assert fold(text) == defined(text)


def test_every_combining_mark_is_known_as_one_and_so_put_in_order_at_a_bounded_price() -> None:
    assert len(MARKS) > 900
    assert [mark for mark in MARKS if not folding._MARKS.fullmatch(mark * 32)] == []
    ordered = folding._MARKS.sub(folding._in_order, "a" + "\u0345\u0327\u0f73" * 5000)
    classes = [unicodedata.combining(one) for one in ordered]
    assert classes == sorted(classes)


@pytest.mark.parametrize("character", SPACES, ids=ascii)
def test_white_space_of_every_kind_becomes_one_space_and_none_at_the_ends(character: str) -> None:
    assert fold(f"{character}a{character}{character} b{character}") == "a b"
