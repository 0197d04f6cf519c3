"""Questions about the client's own words, at bounded cost, and their answers without the words.

Texts are folded before they are asked: compatibility forms are unified (NFKC), invisible characters removed, case
folded, white space made one space. So the letters of another alphabet block, a zero-width space or a line break in the
middle of a phrase hide nothing. Looked at are the first and the last `HALF` characters.
"""

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Literal, NamedTuple

import msgspec
import re2

from gateway.core.facts import Facts
from gateway.core.fold import fold
from gateway.policy.variables import USER_TEXT, VARIABLES

HALF = 8192
"""Characters at each end of a request's texts that questions see."""
GAP = "\x1f"
"""Stands between the two ends where something was left out: in no pattern, in no phrase."""
MAX_PATTERN = 512
MAX_PROGRAM = 1000
"""Instructions of a compiled pattern. Matching takes at most characters x instructions steps (RE2, linear)."""
MAX_MEMORY = 1 << 20

Question = Literal["contains", "startsWith", "endsWith", "matches"]


class Predicate(msgspec.Struct, frozen=True):
    """A question about the words (or, for `matches`, about another text among the facts)."""

    subject: str
    question: Question
    wanted: str

    @property
    def id(self) -> str:
        """A name for it that is the same in every ruleset."""
        text = "\x00".join((self.subject, self.question, self.wanted))
        return "p" + blake2b(text.encode(), digest_size=6).hexdigest()

    @property
    def of_words(self) -> bool:
        """Whether its answer must be recorded, because its subject is not."""
        return self.subject == USER_TEXT


class BadPattern(Exception):
    """A regular expression that is not used; the message says why."""


def compile_pattern(pattern: str) -> "re2._Regexp":
    """Case is ignored and `.` is any character. Raises BadPattern."""
    if len(pattern) > MAX_PATTERN:
        raise BadPattern(f"the pattern has {len(pattern):,} characters; at most {MAX_PATTERN} are taken")
    options = re2.Options()
    options.log_errors, options.case_sensitive, options.dot_nl = False, False, True
    options.max_mem = MAX_MEMORY
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as problem:
        said = problem.args[0]
        said = said.decode(errors="replace") if isinstance(said, bytes) else said
        raise BadPattern(f"the pattern is none that RE2 takes: {said}") from problem
    if compiled.programsize > MAX_PROGRAM:
        raise BadPattern(
            f"the pattern costs {compiled.programsize:,} steps a character; at most {MAX_PROGRAM:,} are allowed. "
            "Lower its counts or split it"
        )
    return compiled


def visible(texts: tuple[str, ...]) -> str:
    """Both ends of the texts, folded; what lies between them costs nothing."""
    return GAP.join(map(fold, _ends(texts)))


def _ends(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The texts as one where they are short, else both of their ends."""
    if sum(map(len, texts)) + len(texts) <= 2 * HALF:
        return ("\n".join(texts),)
    return _end(texts), _end(text[-HALF:][::-1] for text in reversed(texts))[::-1]


def _end(texts: Iterable[str]) -> str:
    """The first characters of the texts, one a line."""
    pieces, room = [], HALF
    for text in texts:
        pieces.append(text[:room])
        room -= len(text) + 1
        if room <= 0:
            break
    return "\n".join(pieces)


Test = Callable[[str], bool]


def compile_predicate(predicate: Predicate) -> Test:
    """The predicate as a function of the folded words (or of its other subject). Raises BadPattern."""
    wanted = predicate.wanted
    if predicate.question == "matches":
        search = compile_pattern(wanted).search
        # bytes: half the price, and a lone surrogate is no error
        return lambda text: search(text.encode("utf-8", "replace")) is not None
    wanted = fold(wanted)
    if predicate.question == "contains":
        return lambda text: wanted in text
    if predicate.question == "startsWith":
        return lambda text: text.startswith(wanted)
    return lambda text: text.endswith(wanted)


class Screen(NamedTuple):
    """One search in place of many: where it finds nothing, the predicates of these `names` are false. What it finds
    proves nothing. It searches words as they came where those are ASCII, and folded ones (screen.py)."""

    names: frozenset[str]
    search: Callable[[bytes], object | None]


class Answers:
    """Answers to predicates of one request, each found once: from its words where they are there, else as recorded."""

    def __init__(
        self,
        facts: Facts,
        tests: Mapping[str, Test],
        recorded: Mapping[str, bool] | None = None,
        screen: Screen | None = None,
    ) -> None:
        self._facts, self._tests, self._screen = facts, tests, screen
        self._screened: bool | None = None  # what the screen says, once it was asked
        self.recorded = recorded
        """None: the words are there."""
        self._words: str | None = None
        self.given: dict[str, bool] = {}
        """What was asked about the words, and answered."""
        self.missing = False
        """Whether something was asked that was not recorded; whoever wants to know resets it."""

    def of(self, name: str, subject: str) -> bool | None:
        """The answer to the predicate of this id about this variable; None where it was not recorded."""
        if subject != USER_TEXT:
            return self._tests[name](VARIABLES[subject].of(self._facts))
        answer = self.given.get(name)
        if answer is not None:
            return answer
        if self.recorded is not None:
            answer = self.recorded.get(name)
            if answer is None:
                self.missing = True
                return None
        else:
            answer = not self._ruled_out(name) and self._tests[name](self._folded())
        self.given[name] = answer
        return answer

    def _ruled_out(self, name: str) -> bool:
        """The screen says no to this one."""
        return self._screen is not None and name in self._screen.names and self.screened()

    def ascii(self) -> bool:
        """Whether the words are, all of them."""
        return all(map(str.isascii, self._facts.texts))

    def screened(self) -> bool:
        """Whether the screen finds nothing: all that it stands for is false then. Asked once, and the words folded for
        it where they have to be; what is asked about them then costs next to nothing. False without a screen."""
        if self._screen is None:
            return False
        if self._screened is None:
            words = GAP.join(_ends(self._facts.texts))
            words = words if words.isascii() else self._folded()
            self._screened = self._screen.search(words.encode("utf-8", "replace")) is None
        return self._screened

    def _folded(self) -> str:
        if self._words is None:
            self._words = visible(self._facts.texts)
        return self._words
