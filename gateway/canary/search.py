"""Whose phrase is in this text? Found though a fifth of its characters were changed, dropped or added.

First every word of every phrase is looked for at once, with errors (Wu and Manber's bit-parallel search, 1992: all
words side by side in one long integer). Then, for each stretch of text, sets of principals as long integers tell who
has at least three of his eight words about where they belong. Those few are compared letter by letter (Sellers'
distance, as Myers computes it, 1999).
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from gateway.canary.origin import Origin
from gateway.canary.phrase import Words, phrase_of
from gateway.canary.words import PLACES
from gateway.core.fold import fold

MAX_TEXT = 1_000_000
"""Characters of a text that are searched."""
STEP = 8
"""Stretches begin so many characters apart."""
SLACK = 14
"""Characters that a word may stand before or after its usual place in a phrase."""
WORDS_FOUND = 3
MARGIN = 24
"""Characters compared before and after a stretch."""
ERROR = 0.01
"""How much less likely a phrase is for each further letter that differs, with a fifth of them changed: e/(1-e)/25."""
FOREIGN = 0.45
"""Letters of a phrase, as a share, that differ from any text that has nothing to do with it; less is found by
chance."""
DAMAGED = 0.34
"""The share of a phrase's letters that may differ: a fifth, and as much again for luck."""
SAME = 40
"""Two phrases that end so near each other are one place of the text; two that follow each other are further apart."""
WANDER = 12
"""Letters that a word may stand before or after where it would if nothing before the phrase's end were changed."""
SURE = 0.9

_NO_LETTER = re.compile("[^a-z]")


class Trace(NamedTuple):
    """A principal whose phrase is in a text. `sure`: 0 to 1, against all others whose phrase that place could be,
    somebody unknown among them, and against chance. `at`: the offset in the text, `excerpt` what stands there;
    `changed`: the share of letters that differ."""

    principal: str
    sure: float
    at: int
    excerpt: str
    changed: float


class CanaryIndex:
    """The phrases of many principals, ready to be looked for. About 20 KB for each 10,000 principals and word."""

    def __init__(self, phrases: Mapping[str, Words]) -> None:
        self._names = list(phrases)
        self._phrases = [phrases[name] for name in self._names]
        self._holders: list[dict[str, int]] = [{} for _ in PLACES]
        for number, words in enumerate(self._phrases):
            for holders, word in zip(self._holders, words, strict=True):
                holders[word] = holders.get(word, 0) | 1 << number
        self._words = _WordSearch()

    def find(self, text: str) -> tuple[Trace, ...]:
        """The principals whose phrases are there, the surest first; mostly one or none."""
        text = text[:MAX_TEXT]
        folded = _NO_LETTER.sub(" ", fold(text))
        distances: dict[int, tuple[int, int]] = {}
        for start, found in self._stretches(folded):
            window = folded[max(start - MARGIN, 0) : start + LONGEST + MARGIN]
            while found:
                lowest = found & -found
                found ^= lowest
                number = lowest.bit_length() - 1
                distance, end = nearest(phrase_of(self._phrases[number]), window)
                place = max(start - MARGIN, 0) + end
                distances[number] = min(distances.get(number, (distance, place)), (distance, place))
        return located(self._judged(folded, distances), text)

    def _stretches(self, text: str) -> list[tuple[int, int]]:
        """(where a phrase may begin, the bits of those who have enough of their words there)."""
        hits = self._words.find(text)
        if not hits:
            return []
        found: list[tuple[int, int]] = []
        before = 0
        for start in range(-SLACK, len(text), STEP):
            holders = [self._near(place, hits[place], start) for place in range(len(PLACES))]
            enough = _at_least(holders, WORDS_FOUND)
            fresh = enough & ~before  # the stretch before has them already, and overlaps
            before = enough
            if fresh:
                found.append((start, fresh))
        return found

    def _near(self, place: int, hits: dict[int, list[str]], start: int) -> int:
        """Who has a word of this place that ends about where it would in a phrase that begins at `start`."""
        holders = 0
        for end in range(start + ENDS[place] - SLACK, start + ENDS[place] + SLACK):
            for word in hits.get(end, ()):
                holders |= self._holders[place].get(word, 0)
        return holders

    def _judged(self, text: str, distances: dict[int, tuple[int, int]]) -> tuple[Trace, ...]:
        traces = []
        for number, (distance, end) in distances.items():
            phrase = phrase_of(self._phrases[number])
            if distance > DAMAGED * len(phrase):
                continue
            rivals = sum(
                ERROR ** max(other - distance, 0)
                for rival, (other, place) in distances.items()
                if rival != number and abs(place - end) < SAME
            )
            chance = len(self._names) * ERROR ** (FOREIGN * len(phrase) - distance)
            stranger = foreignness(self._phrases[number], text[: end + MARGIN], end)
            sure = 1 / (1 + rivals + chance + stranger)
            if sure >= SURE:
                start = max(end - len(phrase), 0)
                traces.append(Trace(self._names[number], sure, start, text[start:end], distance / len(phrase)))
        return tuple(sorted(traces, key=lambda trace: (-trace.sure, trace.changed)))


def located(traces: tuple[Trace, ...], text: str) -> tuple[Trace, ...]:
    """The traces with offsets and excerpts of the text in place of those of its folded form."""
    if not traces:
        return ()
    origin = Origin(text)
    spans = [origin.span(trace.at, trace.at + len(trace.excerpt)) for trace in traces]
    return tuple(
        trace._replace(at=start, excerpt=text[start:end]) for trace, (start, end) in zip(traces, spans, strict=True)
    )


def foreignness(words: Words, text: str, end: int) -> float:
    """How much likelier the text before `end` is if somebody unknown was given it, whose words could be any, than if
    these words were. Damage falls on all words alike; somebody unknown shares a few of the words and has better ones
    for the other places."""
    phrase = phrase_of(words)
    likelier, at = 1.0, 0
    for place, own in enumerate(words):
        at = phrase.index(own, at)
        start = max(end - len(phrase) + at - WANDER, 0)
        there = text[start : end - len(phrase) + at + len(own) + WANDER]
        known = nearest(own, there)[0]
        likelier *= sum(ERROR ** (nearest(word, there)[0] - known) for word in PLACES[place]) / len(PLACES[place])
    return likelier


def nearest(pattern: str, text: str) -> tuple[int, int]:
    """(the fewest letters to change, drop or add so that `pattern` stands in `text`, where it ends there)."""
    masks: dict[str, int] = {}
    for at, letter in enumerate(pattern):
        masks[letter] = masks.get(letter, 0) | 1 << at
    last, whole = 1 << len(pattern) - 1, (1 << len(pattern)) - 1
    up, down, distance = whole, 0, len(pattern)
    best, end = distance, 0
    for at, letter in enumerate(text, 1):
        match = masks.get(letter, 0)
        diagonal = (((match & up) + up) ^ up) | match | down
        more, less = down | (~(diagonal | up) & whole), up & diagonal
        if more & last:
            distance += 1
        elif less & last:
            distance -= 1
        more, less = more << 1 & whole, less << 1 & whole
        up, down = (less | ~(diagonal | more)) & whole, more & diagonal
        if distance < best:
            best, end = distance, at
    return best, end


class _WordSearch:
    """All words of all places, each with errors for its length."""

    def __init__(self) -> None:
        self._masks: dict[str, int] = {}
        self._starts = 0
        self._ends: dict[int, tuple[int, str]] = {}
        self._final = [0] * (ERRORS + 1)
        bit = 0
        for place, words in enumerate(PLACES):
            for word in words:
                self._starts |= 1 << bit
                for letter in word:
                    self._masks[letter] = self._masks.get(letter, 0) | 1 << bit
                    bit += 1
                self._ends[bit - 1] = (place, word)
                self._final[errors_for(word)] |= 1 << bit - 1

    def find(self, text: str) -> list[dict[int, list[str]]]:
        """For each place: the offset of an end -> the words that end there."""
        hits: list[dict[int, list[str]]] = [{} for _ in PLACES]
        starts = self._starts
        # with so many errors allowed, the first letters of every word count as seen
        rows = [0] * (ERRORS + 1)
        for level in range(1, ERRORS + 1):
            rows[level] = rows[level - 1] << 1 | starts
        for at, letter in enumerate(text, 1):
            mask = self._masks.get(letter, 0)
            before, rows[0] = rows[0], (rows[0] << 1 | starts) & mask
            found = rows[0] & self._final[0]
            for level in range(1, ERRORS + 1):
                old = rows[level]
                # the letter fits; or one too many; or another in its place; or one is missing
                rows[level] = (old << 1 | starts) & mask | before | (before | rows[level - 1]) << 1 | starts
                found |= rows[level] & self._final[level]
                before = old
            while found:
                lowest = found & -found
                found ^= lowest
                place, word = self._ends[lowest.bit_length() - 1]
                hits[place].setdefault(at, []).append(word)
        return hits


ERRORS = 3


def errors_for(word: str) -> int:
    """Letters of a word that may differ for it to be seen: about 30%."""
    return 1 if len(word) <= 5 else 2 if len(word) <= 8 else ERRORS


def _at_least(sets: list[int], count: int) -> int:
    """The members of at least `count` of the sets."""
    levels = [0] * count
    for members in sets:
        for level in range(count - 1, 0, -1):
            levels[level] |= levels[level - 1] & members
        levels[0] |= members
    return levels[-1]


def _usual_ends() -> tuple[tuple[int, ...], int]:
    """(where the word of each place ends in a phrase of average words, the length of the longest phrase)."""
    average = tuple("x" * (sum(map(len, words)) // len(words)) for words in PLACES)
    phrase, at, ends = phrase_of(average), 0, []
    for word in average:
        at = phrase.index(word, at) + len(word)
        ends.append(at)
    longest = phrase_of(tuple(max(words, key=len) for words in PLACES))
    return tuple(ends), len(longest)


ENDS, LONGEST = _usual_ends()
