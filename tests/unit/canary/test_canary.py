"""Canaries: a phrase for each principal, found again in damaged text, and in no text that has nothing to do with it."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.canary.origin import Origin
from gateway.canary.phrase import SHARED, Words, phrase_of, sentence_of, words_of
from gateway.canary.search import CanaryIndex, nearest
from gateway.canary.words import PLACES
from gateway.core.fold import fold

KEY = b"a key of tests"
ROOT = Path(__file__).parents[3]
LETTERS = "abcdefghijklmnopqrstuvwxyz ,."


@pytest.fixture(scope="module")
def phrases() -> dict[str, Words]:
    return {f"prin_{number}": words_of(KEY, f"prin_{number}") for number in range(10_000)}


@pytest.fixture(scope="module")
def index(phrases: dict[str, Words]) -> CanaryIndex:
    return CanaryIndex(phrases)


@pytest.fixture(scope="module")
def prose() -> str:
    """Text in English that holds no phrase: this project's own documents."""
    return " ".join(path.read_text() for path in sorted((ROOT / "docs").rglob("*.md")))


def changed(text: str, dice: random.Random, kinds: str) -> str:
    """The text with exactly a fifth of its characters changed: another in its place, one more, or one less."""
    chosen = set(dice.sample(range(len(text)), len(text) // 5))
    pieces = []
    for at, letter in enumerate(text):
        kind = dice.choice(kinds) if at in chosen else ""
        if kind == "o":
            pieces.append(dice.choice([other for other in LETTERS if other != letter.lower()]))
        elif kind != "-":
            pieces.append(letter + (dice.choice(LETTERS) if kind == "+" else ""))
    return "".join(pieces)


@pytest.mark.parametrize("kinds", ["o", "oo+-"])
def test_among_ten_thousand_the_right_one_is_named_first_though_a_fifth_is_changed(
    index: CanaryIndex, phrases: dict[str, Words], prose: str, kinds: str
) -> None:
    dice = random.Random(f"seed {kinds}")
    right = 0
    for _ in range(200):
        who = dice.choice(list(phrases))
        before, after = dice.randrange(400), dice.randrange(400)
        start = dice.randrange(len(prose) - 800)
        text = f"{prose[start : start + before]} {phrase_of(phrases[who])}. {prose[start + 400 : start + 400 + after]}"
        found = index.find(changed(text, dice, kinds))
        right += bool(found) and found[0].principal == who
    assert right >= 198, right


def test_nobody_is_named_for_a_thousand_texts_that_have_nothing_to_do_with_it(index: CanaryIndex, prose: str) -> None:
    dice = random.Random(7)
    everyday = " ".join(re.findall(r"[A-Za-z]+", prose)).split()
    for number in range(1000):
        if number % 2:
            start = dice.randrange(len(prose) - 500)
            text = prose[start : start + 500]
        else:  # our own words, in no order of ours
            own = [word for place in PLACES for word in dice.sample(place, 3)]
            text = " ".join(dice.sample(everyday, 30) + dice.sample(own, 6))
        assert index.find(text) == (), text


@pytest.mark.parametrize("kinds", ["", "oo+-"])
def test_the_phrase_of_somebody_unknown_is_not_taken_for_a_known_ones(index: CanaryIndex, kinds: str) -> None:
    dice = random.Random(11)
    strangers = [f"I saw {phrase_of(words_of(b'another key', str(number)))} there." for number in range(400)]
    found = [index.find(changed(text, dice, kinds) if kinds else text) for text in strangers]
    assert sum(map(bool, found)) <= 1


def test_a_clean_phrase_is_found_where_it_stands_and_it_is_sure(index: CanaryIndex, phrases: dict[str, Words]) -> None:
    phrase = phrase_of(phrases["prin_77"]).upper()
    text = f"\n Well, you\u200b  know: ﬁne.\n  {phrase}! And so on."
    (found,) = index.find(text)
    assert found.principal == "prin_77"
    assert found.sure > 0.999999
    assert found.changed == 0
    assert found.excerpt == phrase
    assert found.at == text.index(phrase)


@given(st.text(st.sampled_from("aB \n\u200b\u00a0ﬁ\u0301é\u00a8x"), max_size=12))
def test_every_folded_letter_comes_from_a_place_of_the_text_that_folds_to_it(text: str) -> None:
    folded, origin = fold(text), Origin(text)
    assert " ".join(filter(None, map(fold, text.split()))) == folded
    for at, letter in enumerate(folded):
        start, end = origin.span(at, at + 1)
        assert 0 <= start < end <= len(text)
        if letter in "abx":
            assert text[start:end].casefold() == letter


def test_invisible_letters_hide_nothing(index: CanaryIndex, phrases: dict[str, Words]) -> None:
    hidden = "\u200b".join(phrase_of(phrases["prin_5"]))
    assert [trace.principal for trace in index.find(hidden)] == ["prin_5"]


@pytest.mark.parametrize("between", [" ", ". ", "Filler of no interest. " * 20])
def test_two_phrases_in_one_text_are_both_found(index: CanaryIndex, phrases: dict[str, Words], between: str) -> None:
    text = f"{phrase_of(phrases['prin_1'])}{between}{phrase_of(phrases['prin_2'])}"
    assert {trace.principal for trace in index.find(text)} == {"prin_1", "prin_2"}


@pytest.mark.parametrize("text", ["", " ", "the", "the of the the", "\ud800", "x" * 5000])
def test_texts_of_nothing_name_nobody(index: CanaryIndex, text: str) -> None:
    assert index.find(text) == ()


def test_without_principals_nobody_is_named() -> None:
    assert CanaryIndex({}).find("the saffron kestrel of the quarry polished the brittle sextant") == ()


def test_phrases_are_stable_secret_and_different(phrases: dict[str, Words]) -> None:
    assert words_of(KEY, "prin_1") == phrases["prin_1"]
    assert words_of(b"another key", "prin_1") != phrases["prin_1"]
    assert len(set(phrases.values())) == len(phrases)
    for place, choices in enumerate(PLACES):
        counts = [sum(words[place] == word for words in phrases.values()) for word in choices]
        assert 90 < min(counts) <= max(counts) < 240  # 156 each, evenly


def test_the_shared_words_stand_first_so_that_their_prefix_stays_cached(phrases: dict[str, Words]) -> None:
    for words in list(phrases.values())[:50]:
        assert sentence_of(words) == f"{SHARED}{phrase_of(words)}."


def distance(one: str, other: str) -> int:
    """Levenshtein's, by the book."""
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, 1):
        row, before = [at], row
        for place, wanted in enumerate(other, 1):
            row.append(min(before[place] + 1, row[-1] + 1, before[place - 1] + (letter != wanted)))
    return row[-1]


def test_words_are_many_and_far_from_each_other() -> None:
    everything = [word for words in PLACES for word in words]
    assert [len(words) for words in PLACES] == [64] * 8
    assert len(set(everything)) == 6 * 64, "two lists serve twice; else no word stands in two places"
    assert all(re.fullmatch("[a-z]{5,14}", word) for word in everything)
    for words in PLACES:
        for at, word in enumerate(words):
            assert all(distance(word, other) >= 3 for other in words[at + 1 :])


@given(st.text("abc", min_size=1, max_size=8), st.text("abcd", max_size=12))
def test_the_nearest_place_is_the_nearest_by_the_book(pattern: str, text: str) -> None:
    found, end = nearest(pattern, text)
    book = min(distance(pattern, text[a:b]) for a in range(len(text) + 1) for b in range(a, len(text) + 1))
    assert found == book
    if end:
        assert min(distance(pattern, text[start:end]) for start in range(end + 1)) == found
