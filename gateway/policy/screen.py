"""A screen over the client's words: most requests are what no rule asks about, and one search says so.

A predicate is asked of folded words. Where all of them are ASCII, folding changes nothing but case and white space; so
what a plain pattern finds in folded words, the same pattern finds in the words as they came, once each space in it
stands for any white space. All such patterns, joined by `|`, are the screen. It may find what no predicate does (it
sees the gap between two ends as a space, and `startsWith` anywhere), never the other way round. Patterns that speak of
single characters (`.`, classes) or of places (`^`) have no part in it: they are asked of folded words, as ever.
"""

import re
from collections.abc import Iterable

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


def screen_of(predicates: Iterable[Predicate]) -> Screen | None:
    """The screen for as many of these predicates as there is room for; None where it takes none."""
    parts: dict[str, str] = {}
    room = MAX_PROGRAM
    for predicate in predicates:
        pattern = _screening(predicate)
        size = _compiled(pattern).programsize if pattern is not None else 0
        if pattern is not None and size <= room:
            parts[predicate.id] = f"(?:{pattern})"
            room -= size
    return Screen(frozenset(parts), _compiled("|".join(parts.values())).search) if parts else None


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


def _compiled(pattern: str) -> "re2._Regexp":
    """Of parts that compile by themselves."""
    options = re2.Options()
    options.log_errors, options.case_sensitive, options.never_capture = False, False, True
    options.max_mem = MAX_MEMORY
    return re2.compile(pattern, options)
