"""A screen over the client's words: most requests are what no rule asks about, and one search says so.

A predicate is asked of folded words. Where all of them are ASCII, folding changes nothing but case and white space; so
what a plain pattern finds in folded words, the same pattern finds in the words as they came, once each space in it
stands for any white space. All such patterns, joined by `|`, are the screen. It may find what no predicate does (it
sees the gap between two ends as a space, and `startsWith` anywhere), never the other way round. Patterns that speak of
single characters (`.`, classes) or of places (`^`) have no part in it: they are asked of folded words, as ever.

Beside it stand the words that it needs: in all that a part of it finds there is one of each of some groups of words. A
short text in which each part lacks a group is done with sooner than by a search that comes seldom.
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

MOST_IN_A_GROUP = 16
"""Words of which one is needed; to look for more of them costs more than it spares."""
MAX_NEEDED = 64
"""Words in all, likewise."""
MOST_LOOKED = 1 << 16
"""Characters times words: so much is looked at before the search is quicker. (32 words in 2,000 characters: 30 us, and
100 in the worst of texts.)"""
_WORD = re.compile("[!-~]{3,}")
_SYMBOL = re.compile(r"\((?:\?:)?|.", re.DOTALL)
"""Of a plain pattern: a group's beginning, or a character."""

Group = frozenset[str]
NO_WORDS: Group = frozenset()


def screen_of(predicates: Iterable[Predicate]) -> Screen | None:
    """The screen for as many of these predicates as there is room for; None where it takes none."""
    parts: dict[str, str] = {}
    needed: list[tuple[Group, ...]] = []
    room = MAX_PROGRAM
    for predicate in predicates:
        pattern = _screening(predicate)
        size = _compiled(pattern).programsize if pattern is not None else 0
        if pattern is not None and size <= room:
            parts[predicate.id] = f"(?:{pattern})"
            needed += _needed_by(predicate)
            room -= size
    if not parts:
        return None
    search = _compiled("|".join(parts.values())).search
    return Screen(frozenset(parts), search, tuple(dict.fromkeys(needed)), _most(needed))


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


def _most(needed: list[tuple[Group, ...]]) -> int:
    """Characters in which it is quicker to look for these than to search; 0: none."""
    words = sum(len(group) for groups in needed for group in groups)
    return MOST_LOOKED // words if all(needed) and words <= MAX_NEEDED else 0


def _needed_by(predicate: Predicate) -> list[tuple[Group, ...]]:
    """What an ASCII text holds, in lower case, in which the predicate's part of the screen is found: for one of these,
    a word of each of its groups."""
    if predicate.question == "matches":
        return _branches(iter(_SYMBOL.findall(predicate.wanted)))
    return [_groups(list(fold(predicate.wanted)))]


def _branches(symbols: Iterator[str]) -> list[tuple[Group, ...]]:
    """What each branch of a plain pattern needs, or of a group of it, up to its end."""
    branches: list[tuple[Group, ...]] = []
    parts: list[str | Group] = []
    for symbol in symbols:
        match symbol[0]:
            case "(":
                parts.append(_either(_branches(symbols)))
            case "?" | "*":
                parts[-1] = NO_WORDS
            case "+":
                parts.append(NO_WORDS)  # more of the same, which parts what it stands between
            case "|":
                branches.append(_groups(parts))
                parts = []
            case ")":
                break
            case _:
                parts.append(symbol.lower())
    return [*branches, _groups(parts)]


def _groups(parts: Iterable[str | Group]) -> tuple[Group, ...]:
    """What a sequence of characters and groups needs; first what is rarest, as far as length tells."""
    parts = list(parts)
    letters = "".join(part if isinstance(part, str) else " " for part in parts)
    found = {frozenset((word,)) for word in _WORD.findall(letters)}
    found |= {part for part in parts if not isinstance(part, str) and 0 < len(part) <= MOST_IN_A_GROUP}
    return tuple(sorted(found, key=lambda group: (-min(map(len, group)), len(group), sorted(group))))


def _either(branches: list[tuple[Group, ...]]) -> Group:
    """The words of which one is there, whichever branch is."""
    return NO_WORDS.union(*(groups[0] for groups in branches)) if all(branches) else NO_WORDS


def _compiled(pattern: str) -> "re2._Regexp":
    """Of parts that compile by themselves."""
    options = re2.Options()
    options.log_errors, options.case_sensitive, options.never_capture = False, False, True
    options.max_mem = MAX_MEMORY
    return re2.compile(pattern, options)
