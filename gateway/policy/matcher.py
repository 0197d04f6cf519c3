"""Which conditions hold for some facts. CEL is known here and in condition.py, and nowhere else.

Four things keep it cheap. Conditions are found by what they demand of state, endpoint, plan and model, so those that
cannot hold are not evaluated. Atoms are evaluated by the chunk: one CEL expression gives a bit for each of up to
`CHUNK` of them. What a chunk came to is remembered by the values of its variables, or by as much of them as it tells
apart (ranks.py), since principals ask again and again; atoms over the same variables share a chunk. And the client's
words are looked at only where a condition's atoms leave it open. Answers from a record are few and often alike: what
formulas came to is remembered by them, too.

An error in CEL is a *value*, and one of them spoils a whole mask: so an atom that can fail (it divides, say) stands in
a chunk of its own. A condition that hangs on a failed atom does not hold, and is counted.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from cel_expr_python import cel

from gateway.core.facts import Facts
from gateway.policy.condition import Condition
from gateway.policy.formula import Atom, Evaluate, atoms, compile_formula
from gateway.policy.ranks import ranks
from gateway.policy.syntax import read_expression
from gateway.policy.text import Answers
from gateway.policy.variables import INDEXED, VARIABLES, cel_value, environment, reader

CHUNK = 24
"""Atoms in one expression: its tree of sums stays well below the depth that CEL's parser takes."""

WORTH_A_CALL = 8
"""Atoms from which a chunk costs more than the call itself."""
REMEMBERED = 1024
"""Results that a chunk remembers; then it begins anew."""


class Matches(NamedTuple):
    """Bits by the index of the condition. `unknown`: hangs on words that were not recorded. `failed`: on an error."""

    yes: int
    unknown: int
    failed: int


NOTHING = Matches(0, 0, 0)
_UNFIT = (RuntimeError, ValueError, OverflowError, TypeError)
"""What CEL raises for a fact that is no value of its own: half of a surrogate pair, a number beyond 64 bits."""


class Matcher:
    """Conditions compiled together. The first `count` atoms are the conditions that are one atom and nothing else, each
    under its own index; behind them stand the atoms of formulas."""

    def __init__(self, conditions: Sequence[Condition]) -> None:
        placed: list[_Placed] = []
        self._plain = 0
        self._formulas: list[tuple[int, Evaluate]] = []
        place = len(conditions)
        for index, condition in enumerate(conditions):
            if isinstance(condition.formula, Atom):
                self._plain |= 1 << index
                placed.append(_Placed(index, 1 << index, condition.formula, condition))
                continue
            first = place
            for atom in atoms(condition.formula):
                placed.append(_Placed(place, 1 << index, atom, condition))
                place += 1
            evaluate = compile_formula(condition.formula, iter(range(first, place)))
            self._formulas.append((1 << index, evaluate))
        self._asking = sum(rule for rule, _ in self._formulas)
        self._atoms = (1 << place) - (1 << len(conditions))
        self._subjects = _subjects(conditions)
        self._recorded: dict[tuple[Any, ...], tuple[Matches, dict[str, bool]]] = {}
        compiler = environment()
        self._all = (1 << len(conditions)) - 1
        self._chunks = [_Chunk(compiler, members) for members in _chunks(placed)]
        demands = [_Demands(name, conditions) for name in INDEXED]
        self._index = [each for each in demands if each.masks]

    def match(self, facts: Facts, answers: Answers, candidates: int | None = None) -> Matches:
        """Of these conditions, or of all that are not ruled out. Nothing is unknown where `answers` has the words."""
        if candidates is None:
            candidates = self.candidates(facts)
        if not candidates:
            return NOTHING
        true = failing = 0
        for chunk in self._chunks:
            if chunk.rules & candidates:
                some_true, some_failing = chunk.evaluate(facts)
                true |= some_true
                failing |= some_failing
        yes, unknown, failed = true & self._plain & candidates, 0, failing & self._plain & candidates
        asking = candidates & self._asking
        if asking:
            if answers.recorded is None:
                found = self._ask(asking, true, failing, answers)
            else:
                found = self._remembered(asking, true & self._atoms, failing & self._atoms, facts, answers)
            yes, unknown, failed = yes | found.yes, found.unknown, failed | found.failed
        return Matches(yes, unknown, failed)

    def _ask(self, asking: int, true: int, failing: int, answers: Answers) -> Matches:
        """The formulas of these rules."""
        yes = unknown = failed = 0
        for rule, evaluate in self._formulas:
            if rule & asking:
                answers.missing = False
                truth = evaluate(true, failing, answers)
                if truth:
                    yes |= rule
                elif truth is None and answers.missing:
                    unknown |= rule
                elif truth is None:
                    failed |= rule
        return Matches(yes, unknown, failed)

    def _remembered(self, asking: int, true: int, failing: int, facts: Facts, answers: Answers) -> Matches:
        """The same for recorded answers: they, the atoms and what else is asked of the facts settle it."""
        assert answers.recorded is not None
        asked = tuple([read(facts) for read in self._subjects])
        key = (asking, true, failing, asked, tuple(answers.recorded.items()))
        known = self._recorded.get(key)
        if known is None:
            known = self._ask(asking, true, failing, answers), answers.given
            if len(self._recorded) >= REMEMBERED:
                self._recorded.clear()
            self._recorded[key] = known
        answers.given = known[1]
        return known[0]

    def candidates(self, facts: Facts) -> int:
        """Bits of the conditions that are not ruled out at once."""
        candidates = self._all
        for demands in self._index:
            candidates &= demands.masks.get(demands.of(facts), demands.other)
            if not candidates:
                break
        return candidates


def _subjects(conditions: Sequence[Condition]) -> list[Callable[[Facts], Any]]:
    """What questions are about, other than words."""
    asked = {each.subject for condition in conditions for each in condition.predicates if not each.of_words}
    return [VARIABLES[name].of for name in sorted(asked)]


class _Placed(NamedTuple):
    """An atom: its own index, the bit of its rule, and the rule's condition."""

    place: int
    rule: int
    atom: Atom
    condition: Condition


class _Demands:
    """For one variable: value -> the conditions that it does not rule out; `other` for all values not named."""

    def __init__(self, name: str, conditions: Sequence[Condition]) -> None:
        self.of: Callable[[Facts], Any] = VARIABLES[name].of
        self.other = sum(1 << index for index, condition in enumerate(conditions) if name not in condition.allowed)
        self.masks: dict[str, int] = {}
        for index, condition in enumerate(conditions):
            for value in condition.allowed.get(name, ()):
                self.masks[value] = self.masks.get(value, self.other) | 1 << index
        if any(not condition.allowed.get(name, True) for condition in conditions):
            self.masks.setdefault("", self.other)  # a condition that allows no value at all is ruled out by this, too


class _Chunk:
    """Some atoms as one expression. `rules`: the bits of the conditions that they belong to."""

    def __init__(self, compiler: cel.Env, members: Sequence[_Placed]) -> None:
        self._places = [1 << member.place for member in members]
        self._whole = sum(self._places)
        self.rules = 0
        for member in members:
            self.rules |= member.rule
        self._single = len(members) == 1
        terms = [f"({member.atom.text} ? {1 << number} : 0)" for number, member in enumerate(members)]
        self._expression = compiler.compile(members[0].atom.text if self._single else _sum(terms))
        self._names = sorted({name for member in members for name in member.atom.variables})
        self._read = reader(self._names)
        known = ranks(read_expression(self._expression.serialize()))
        self._ranks = [(at, known[name]) for at, name in enumerate(self._names) if name in known]
        self._remembered: dict[tuple[Any, ...], tuple[int, int]] = {}

    def evaluate(self, facts: Facts) -> tuple[int, int]:
        """(the atoms that are true, those that failed), by their places."""
        values = self._read(facts)
        told_apart = list(values)
        for at, rank in self._ranks:
            told_apart[at] = rank(told_apart[at])
        key = tuple(told_apart)
        found = self._remembered.get(key)
        if found is None:
            found = self._asked(values)
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = found
        return found

    def _asked(self, values: tuple[Any, ...]) -> tuple[int, int]:
        data = {name: cel_value(value) for name, value in zip(self._names, values, strict=True)}
        try:
            value = self._expression.eval(data=data).value()
        except _UNFIT:
            return 0, self._whole
        if self._single:
            return (self._whole if value else 0, 0) if value is True or value is False else (0, self._whole)
        if type(value) is not int:
            return 0, self._whole
        if not value:
            return 0, 0
        return sum(place for number, place in enumerate(self._places) if value >> number & 1), 0


def _chunks(placed: Sequence[_Placed]) -> Iterator[list[_Placed]]:
    """Atoms of conditions that demand alike stand together, so that few chunks are touched; of those, the ones over the
    same variables, so that few are evaluated."""
    yield from ([member] for member in placed if member.atom.can_fail)
    together = [member for member in placed if not member.atom.can_fail]
    together.sort(key=_likeness)
    chunk: list[_Placed] = []
    for member in together:
        if chunk and _apart(chunk, _likeness(chunk[-1]), _likeness(member)):
            yield chunk
            chunk = []
        chunk.append(member)
    if chunk:
        yield chunk


Likeness = tuple[tuple[bool, ...], tuple[str, ...], list[list[str]]]


def _likeness(member: _Placed) -> Likeness:
    """Which of the indexed variables are demanded, the variables, the values demanded."""
    allowed = member.condition.allowed
    demanded = tuple(name in allowed for name in INDEXED)
    return demanded, member.atom.variables, [sorted(allowed.get(name, ())) for name in INDEXED]


def _apart(chunk: list[_Placed], last: Likeness, following: Likeness) -> bool:
    """Whether a new chunk begins: where other variables are demanded, and, if this one is worth its call, where others
    are read."""
    if len(chunk) == CHUNK or last[0] != following[0]:
        return True
    return len(chunk) >= WORTH_A_CALL and last[1] != following[1]


def _sum(terms: list[str]) -> str:
    """The sum as a balanced tree: CEL's parser takes a depth of 32."""
    if len(terms) == 1:
        return terms[0]
    middle = len(terms) // 2
    return f"({_sum(terms[:middle])} + {_sum(terms[middle:])})"
