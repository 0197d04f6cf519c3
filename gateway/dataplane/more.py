"""How many tokens a touched text has more than the untouched one: told from the border between what was added and what
was there, where that is possible, else by counting both."""

import asyncio
import os
import re
from collections.abc import Sequence

from gateway.fleet.tokens import TokenCounter

_WORDS = re.compile("[A-Za-z](?= [A-Za-z])")
BORDER = 16
"""Characters behind what was added that are counted with it at least."""
MOST_BORDER = 2000


def more_tokens(counter: TokenCounter, untouched: str, touched: str) -> int | None:
    """How many tokens the touched text has more, where that can be told from the border alone between what was added
    and what follows: from there to the end of a word, behind which both have the same tokens. Else None."""
    if untouched == touched:
        return 0
    start = len(os.path.commonprefix((untouched[:MOST_BORDER], touched[:MOST_BORDER])))  # noqa: RUF071 - of characters
    rest = untouched[start:]
    if not counter.local or start == MOST_BORDER or not touched.endswith(rest) or len(touched) < len(untouched):
        return None
    word = _WORDS.search(rest, BORDER)
    upto = len(rest) if word is None else word.end()
    if upto > MOST_BORDER:
        return None
    return counter.count_now(touched[: len(touched) - len(rest) + upto]) - counter.count_now(untouched[: start + upto])


class More:
    """Of the texts of one request, by the tokenizer of the model that is named."""

    def __init__(self, counter: TokenCounter, untouched: Sequence[str], touched: Sequence[str]) -> None:
        self._counter, self._untouched, self._touched = counter, untouched, touched
        self._borders: list[int | None] | None = None
        self._counting: asyncio.Task[tuple[list[int], list[int]]] | None = None

    def look(self) -> list[int | None]:
        """What the borders tell; they are looked at once."""
        if self._borders is None:
            pairs = zip(self._untouched, self._touched, strict=True)
            self._borders = [more_tokens(self._counter, *pair) for pair in pairs]
        return self._borders

    async def of(self, text: int) -> int:
        """Of the text with this number."""
        at_border = self.look()[text]
        if at_border is not None:
            return at_border
        untouched, touched = await self.counts()
        return touched[text] - untouched[text]

    async def counts(self) -> tuple[list[int], list[int]]:
        """Tokens of the untouched texts and of the touched ones, counted in a thread, once."""
        if self._counting is None:
            self._counting = asyncio.create_task(asyncio.to_thread(self._count_now))
        return await asyncio.shield(self._counting)

    def _count_now(self) -> tuple[list[int], list[int]]:
        count = self._counter.count_now
        return [count(text) for text in self._untouched], [count(text) for text in self._touched]

    def close(self) -> None:
        """Nobody wants to know any more."""
        if self._counting is not None:
            self._counting.cancel()
