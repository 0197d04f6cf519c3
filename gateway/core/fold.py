"""Folding: texts that look alike, made equal."""

import re
import unicodedata
from itertools import chain, groupby

_INVISIBLE = re.compile("[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e"
                        "\u2060-\u2064\u2066-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]")  # fmt: skip

_MARKS = re.compile("(?:[^\\w\\s\x00-\x7f]|[\uff9e\uff9f]){8,}")
"""Runs of what may be combining marks: all of those, and little else. Most texts have none so long."""
LONG = 32
"""A run that no real text has."""


def fold(text: str) -> str:
    """Compatibility forms unified (NFKC), invisible characters gone, case folded, white space made one space.

    Costs some 10 ns an ASCII character: it runs on the event loop over the words of every request.
    """
    if text.isascii():
        return _spaced(text.lower())  # equals `casefold` here
    if not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", _MARKS.sub(_in_order, text))
    return _spaced(_INVISIBLE.sub("", text).casefold())


def _in_order(marks: re.Match[str]) -> str:
    """The same marks; a long run of them decomposed and in canonical order. NFKC would put it in order itself, in
    quadratic time: half a second for 16K of them."""
    if len(marks[0]) < LONG:
        return marks[0]
    single = chain.from_iterable(unicodedata.normalize("NFKD", mark) for mark in marks[0])
    runs = groupby(single, key=lambda one: unicodedata.combining(one) > 0)
    return "".join(chain.from_iterable(sorted(run, key=unicodedata.combining) if moves else run for moves, run in runs))


def _spaced(text: str) -> str:
    return " ".join(text.split())  # white space is what `\s` is, at a fifth of the price
