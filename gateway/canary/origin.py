"""Where in a text stands what was found in its folded form?"""

import re
from bisect import bisect_right

from gateway.core.fold import fold

_WORD = re.compile(r"\S+")


class Origin:
    """The offsets of a text beside those of `fold(text)`. Words fold one by one; what stands between them becomes one
    space."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._folded: list[int] = []
        self._spans: list[tuple[int, int]] = []
        at = 0
        for word in _WORD.finditer(text):
            length = len(fold(word[0]))
            if length:
                self._folded.append(at)
                self._spans.append(word.span())
                at += length + 1

    def span(self, start: int, end: int) -> tuple[int, int]:
        """From and to which offset of the text the folded letters `start` to `end` (without it) stand."""
        return self._first(start), self._first(end - 1) + 1 if end > start else self._first(start)

    def _first(self, at: int) -> int:
        """The offset of the letter of the text that the folded letter `at` comes from."""
        number = bisect_right(self._folded, at) - 1
        if number < 0:
            return 0
        begin, end = self._spans[number]
        wanted = at - self._folded[number]
        word = self._text[begin:end]
        if word.isascii():
            return min(begin + wanted, end - 1)
        low, high = 0, len(word) - 1  # the shortest beginning of the word whose folded form reaches the letter
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if len(fold(word[: middle + 1])) > wanted else (middle + 1, high)
        return begin + low
