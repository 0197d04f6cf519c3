"""What a condition comes to: `and`, `or` and `not` over atoms of CEL and questions about the client's words.

Its logic is Kleene's, with three values: None stands for "not known", because an answer was not recorded or an atom
failed. False and anything is false, true or anything is true, whatever was not known.
"""

from collections.abc import Callable, Iterator
from typing import Union

import msgspec

from gateway.policy.text import Answers, Predicate


class Atom(msgspec.Struct, frozen=True):
    """A part in plain CEL over these variables. `can_fail`: for some facts it may be neither true nor false."""

    text: str
    variables: tuple[str, ...]
    can_fail: bool


class Ask(msgspec.Struct, frozen=True):
    predicate: Predicate


class All(msgspec.Struct, frozen=True):
    parts: tuple["Formula", ...]


class Either(msgspec.Struct, frozen=True):
    parts: tuple["Formula", ...]


class Not(msgspec.Struct, frozen=True):
    part: "Formula"


class Choose(msgspec.Struct, frozen=True):
    """`chosen ? yes : no`; not known where `chosen` is not, as in CEL."""

    chosen: "Formula"
    yes: "Formula"
    no: "Formula"

    @property
    def parts(self) -> tuple["Formula", ...]:
        return self.chosen, self.yes, self.no


Formula = Union[Atom, Ask, All, Either, Not, Choose]  # noqa: UP007 (it names itself)
Truth = bool | None
Evaluate = Callable[[int, int, Answers], Truth]
"""From the bits of the atoms that are true, the bits of those that failed, and the answers."""


def atoms(formula: Formula) -> Iterator[Atom]:
    """The atoms in it, from left to right."""
    if isinstance(formula, Atom):
        yield formula
    elif isinstance(formula, Not):
        yield from atoms(formula.part)
    elif not isinstance(formula, Ask):
        for part in formula.parts:
            yield from atoms(part)


def compile_formula(formula: Formula, places: Iterator[int]) -> Evaluate:
    """The formula as a function; `places` gives the bit of each atom, from left to right."""
    if isinstance(formula, Atom):
        return _atom(1 << next(places))
    if isinstance(formula, Ask):
        return _ask(formula.predicate)
    if isinstance(formula, Not):
        return _not(compile_formula(formula.part, places))
    parts = tuple(compile_formula(part, places) for part in formula.parts)
    if isinstance(formula, Choose):
        return _choose(*parts)
    return _join(parts, decides=isinstance(formula, Either))


def _atom(bit: int) -> Evaluate:
    return lambda true, failed, _answers: None if failed & bit else bool(true & bit)


def _ask(predicate: Predicate) -> Evaluate:
    name, subject = predicate.id, predicate.subject
    return lambda _true, _failed, answers: answers.of(name, subject)


def _not(part: Evaluate) -> Evaluate:
    def evaluate(true: int, failed: int, answers: Answers) -> Truth:
        truth = part(true, failed, answers)
        return None if truth is None else not truth

    return evaluate


def _choose(chosen: Evaluate, yes: Evaluate, no: Evaluate) -> Evaluate:
    def evaluate(true: int, failed: int, answers: Answers) -> Truth:
        truth = chosen(true, failed, answers)
        return None if truth is None else (yes if truth else no)(true, failed, answers)

    return evaluate


def _join(parts: tuple[Evaluate, ...], *, decides: bool) -> Evaluate:
    """One part that is `decides` settles it; parts after that are not looked at."""

    def evaluate(true: int, failed: int, answers: Answers) -> Truth:
        known = True
        for part in parts:
            truth = part(true, failed, answers)
            if truth is decides:
                return decides
            known = known and truth is not None
        return not decides if known else None

    return evaluate
