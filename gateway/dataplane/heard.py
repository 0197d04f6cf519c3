"""What the answers to a contained request say: kept as evidence, and searched for its principal's phrase."""

from collections import defaultdict
from sys import getsizeof

from gateway.canary.phrase import Words, phrase_of
from gateway.core.fold import fold

TAIL = 400
"""Characters before a piece of an answer in which a phrase may begin that it ends: the longest, and some more."""

A_PIECE = 9
"""Bytes of a piece's place in a list, with the room that lists keep."""


class Heard:
    """Pieces of answers, by choice. They are looked at not when they come but with `catch_up`. `words`: of the phrase;
    None where none was asked for."""

    def __init__(self, words: Words | None) -> None:
        self._words = words
        self.fresh: list[tuple[int, str]] = []
        """Choice and text of what has come, and was not looked at yet."""
        self._pieces: defaultdict[int, list[str]] = defaultdict(list)
        self._tails: defaultdict[int, str] = defaultdict(str)
        self.held = 0
        """Bytes of memory that the pieces take: of short ones, much more than they have characters."""
        self.said = False
        """The phrase."""

    def catch_up(self) -> bool:
        """Look at what has come since; whether that is the first."""
        first = bool(self.fresh) and not self._pieces
        for choice, text in self.fresh:
            self._pieces[choice].append(text)
            self.held += getsizeof(text) + A_PIECE
            if self._words is not None and not self.said:
                seen = self._tails[choice] + text
                self.said = _may_say(self._words, seen) and phrase_of(self._words) in fold(seen)
                self._tails[choice] = seen[-TAIL:]
        self.fresh.clear()
        return first

    def answer(self, choice: int) -> str:
        """What this choice has said."""
        return "".join(self._pieces.get(choice, ()))


def _may_say(words: Words, seen: str) -> bool:
    """A look before folding, which costs ten times as much: whether the phrase's last word is there."""
    return not seen.isascii() or words[-1] in seen.lower()
