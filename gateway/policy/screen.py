"""A screen over the client's words: most requests are what no rule asks about, and one search says so.

A predicate is asked of folded words. Where all of them are ASCII, folding changes nothing but case and white space; so
what a plain pattern finds in folded words, the same pattern finds in the words as they came, once each space in it
stands for any white space. All such patterns, joined by `|`, are the screen. It may find what no predicate does (it
sees the gap between two ends as a space, and `startsWith` anywhere), never the other way round. Patterns that speak of
single characters (`.`, classes) or of places (`^`) have no part in it: they are asked of folded words, as ever.

Beside it stand the words that it needs: of each part some of which one is in all that the part finds. A text that has
none of them is done with sooner than by the search.
"""

import re
from collections.abc import Iterable, Iterator

import re2

from gateway.core.fold import fold
from gateway.policy.text import MAX_PATTERN, Predicate, Screen

MAX_PROGRAM = 2000
"""Instructions of the joined pattern: as much as two predicates may have at most."""
MAX_MEMORY = 8 << 20

_PLAIN = re.compile(r"[\w\s(|)?*+,;:!'\"<>=@#%&/~`-]*")
"""Patterns of literals, groups and repetitions."""
_SPACES = r"(?:[\t-\r\x1c- ]+)"
"""White space as `str.split` sees it in ASCII."""

MAX_NEEDED = 32
"""Words that a screen needs, at most; where there are more, the search is as quick."""
_WORD = re.compile("[!-~]+")
_SYMBOL = re.compile(r"\((?:\?:)?|[?*+]\??|.", re.DOTALL)
"""Of a plain pattern: a group's beginning, a repetition, or a character."""

Words = frozenset[str]
NO_WORDS: Words = frozenset()


def screen_of(predicates: Iterable[Predicate]) -> Screen | None:
    """The screen for as many of these predicates as there is room for; None where it takes none."""
    parts: dict[str, str] = {}
    needed: list[Words] = []
    room = MAX_PROGRAM
    for predicate in predicates:
        pattern = _screening(predicate)
        size = _compiled(pattern).programsize if pattern is not None else 0
        if pattern is not None and size <= room:
            parts[predicate.id] = f"(?:{pattern})"
            needed.append(_needed_by(predicate))
            room -= size
    if not parts:
        return None
    return Screen(frozenset(parts), _compiled("|".join(parts.values())).search, _needed(needed))


def _screening(predicate: Predicate) -> str | None:
    """A pattern that is found wherever the predicate about words is true; None where there is none so simple."""
    wanted = predicate.wanted
    if not predicate.of_words or len(wanted) > MAX_PATTERN or wanted != wanted.encode("utf-8", "replace").decode():
        return None
    if predicate.question != "matches":
        escaped: str = re2.escape(fold(wanted))
        return escaped.replace(r"\ ", _SPACES)
    plain = _PLAIN.fullmatch(wanted) is not None and "(?" not in wanted.replace("(?:", "")
    return wanted.replace(" ", _SPACES) if plain else None


def _needed(parts: Iterable[Words]) -> tuple[str, ...] | None:
    """The words that some parts need together; None where one needs nothing, or there are too many."""
    together = _either(parts)
    return tuple(sorted(together)) if 0 < len(together) <= MAX_NEEDED else None


def _needed_by(predicate: Predicate) -> Words:
    """Of which one is in all ASCII texts, in lower case, in which the predicate's part of the screen is found; none
    where nothing is known to be there."""
    if predicate.question == "matches":
        return _alternatives(iter(_SYMBOL.findall(predicate.wanted.lower())))
    return _best(list(fold(predicate.wanted)))


def _alternatives(symbols: Iterator[str]) -> Words:
    """What a plain pattern needs, or a group of it, up to its end."""
    branches: list[Words] = []
    parts: list[str | Words] = []
    for symbol in symbols:
        match symbol[0]:
            case "(":
                parts.append(_alternatives(symbols))
            case "?" | "*":
                parts[-1] = NO_WORDS
            case "+":
                parts.append(NO_WORDS)  # more of the same, which parts what it stands between
            case "|":
                branches.append(_best(parts))
                parts = []
            case ")":
                break
            case _:
                parts.append(symbol)
    return _either([*branches, _best(parts)])


def _either(branches: Iterable[Words]) -> Words:
    """What one of some branches needs, whichever it is."""
    each = list(branches)
    return NO_WORDS.union(*each) if all(each) else NO_WORDS


def _best(parts: Iterable[str | Words]) -> Words:
    """The rarest, as far as length tells, of what a sequence of characters and groups needs."""
    parts = list(parts)
    letters = "".join(part if isinstance(part, str) else " " for part in parts)
    found = [frozenset((word,)) for word in _WORD.findall(letters)]
    found += [part for part in parts if not isinstance(part, str) and part]
    return max(found, key=lambda words: (min(map(len, words)), -len(words)), default=NO_WORDS)


def _compiled(pattern: str) -> "re2._Regexp":
    """Of parts that compile by themselves."""
    options = re2.Options()
    options.log_errors, options.case_sensitive, options.never_capture = False, False, True
    options.max_mem = MAX_MEMORY
    return re2.compile(pattern, options)
