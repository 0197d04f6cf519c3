"""A condition: CEL, checked, with its questions about the client's words taken out of it.

What remains is a *formula* (formula.py): `&&`, `||` and `!` over atoms, which are plain CEL, and questions. CEL never
sees a word of the client; the words are looked at only where the atoms leave it open; and where an answer was not
recorded, three-valued logic tells whether it matters.
"""

import difflib
import re
from collections.abc import Iterable
from typing import NamedTuple, get_args

from cel_expr_python import cel

from gateway.core.fold import fold
from gateway.policy.formula import All, Ask, Atom, Choose, Either, Formula, Not
from gateway.policy.syntax import (
    OPERATORS,
    Call,
    Const,
    Fold,
    Ident,
    ListOf,
    Node,
    Other,
    Select,
    children,
    walk,
    write,
)
from gateway.policy.syntax import read_expression as read
from gateway.policy.text import BadPattern, Predicate, Question, compile_predicate
from gateway.policy.variables import TEXT_LENGTH, USER_TEXT, VARIABLES, environment

MAX_CHARACTERS = 8192
MAX_NODES = 400
MAX_DEPTH = 20
QUESTIONS: tuple[str, ...] = get_args(Question)
FUNCTIONS = frozenset(OPERATORS) | {
    "!_", "-_", "_?_:_", "_[_]", "size", "contains", "startsWith", "endsWith", "matches", "int", "double",
}  # fmt: skip
"""Operators and functions that a condition may use."""
FALLIBLE = frozenset({"_/_", "_%_", "_+_", "_-_", "_*_", "-_", "_[_]", "int", "double"})
"""Of those, what overflows, divides by zero, or reaches past an end."""

_ENVIRONMENT = environment()
_PLACE = re.compile(r"<input>:(-?\d+):(-?\d+): (.*)")
_UNDECLARED = re.compile(r"undeclared reference to '([^']*)'")


class ConditionError(Exception):
    """A condition that cannot be used: a sentence, and the line (from 0) of the condition where it is wrong."""

    def __init__(self, sentence: str, line: int = 0) -> None:
        super().__init__(sentence)
        self.sentence, self.line = sentence, line


class Condition(NamedTuple):
    """`allowed` says to which values of a variable it is limited; `conjuncts` are the parts that all must hold, by
    their canonical spelling."""

    source: str
    formula: Formula
    predicates: tuple[Predicate, ...]
    allowed: dict[str, frozenset[str]]
    conjuncts: dict[str, Node]


def read_condition(source: str) -> Condition:
    """Raises ConditionError."""
    if len(source) > MAX_CHARACTERS:
        raise ConditionError(f"the condition has {len(source):,} characters; at most {MAX_CHARACTERS:,} are taken.")
    try:
        compiled = _ENVIRONMENT.compile(source)
    except RuntimeError as problem:
        raise _explained(str(problem)) from problem
    if compiled.return_type() != cel.Type.BOOL:
        kind = compiled.return_type().name().lower()
        raise ConditionError(f"the condition gives {kind}; it must be true or false.")
    tree = read(compiled.serialize())
    _bounded(tree, source)
    _known_values(tree, source)
    asking = _Asking(source)
    formula = asking.formula(tree)
    limited = (name for name, variable in VARIABLES.items() if variable.type == cel.Type.STRING)
    allowed = {name: values for name in limited if (values := allowed_values(tree, name)) is not None}
    return Condition(
        source, formula, tuple(asking.found.values()), allowed, {write(part): part for part in _chain(tree, "_&&_")}
    )


def allowed_values(tree: Node, name: str) -> frozenset[str] | None:
    """The values of a text variable without which the condition cannot hold; None where any will do."""
    if isinstance(tree, Const) and tree.value is False:
        return frozenset()
    if not isinstance(tree, Call):
        return None
    if tree.function in ("_&&_", "_||_"):
        sides = [allowed_values(arg, name) for arg in tree.args]
        given = [side for side in sides if side is not None]
        if tree.function == "_&&_":
            return frozenset.intersection(*given) if given else None
        return frozenset.union(*given) if len(given) == len(sides) else None
    return next((values for found, values in comparisons(tree, ("_==_", "@in")) if found == name), None)


def comparisons(call: Call, functions: tuple[str, ...]) -> Iterable[tuple[str, frozenset[str]]]:
    """(variable, the texts that it is compared with) where the call is such a comparison."""
    if call.function not in functions or len(call.args) != 2:
        return
    left, right = call.args
    if isinstance(right, Ident):
        left, right = right, left
    if not isinstance(left, Ident):
        return
    items = right.items if isinstance(right, ListOf) else (right,)
    texts = [item.value for item in items if isinstance(item, Const) and isinstance(item.value, str)]
    if len(texts) == len(items):
        yield left.name, frozenset(texts)


def _bounded(tree: Node, source: str) -> None:
    """No maps, no loops in loops, no functions of unknown cost."""
    count = 0
    waiting = [(tree, 0, False)]
    while waiting:
        node, depth, looped = waiting.pop()
        count += 1
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise ConditionError(
                f"the condition has more than {MAX_NODES} parts or is nested more than {MAX_DEPTH} deep."
            )
        if isinstance(node, Other | Select):
            what = node.what if isinstance(node, Other) else f"the field {node.field!r}"
            raise ConditionError(f"{what} has no place in a condition.")
        if isinstance(node, Call) and node.function not in FUNCTIONS:
            known = ", ".join(sorted(name for name in FUNCTIONS if name.isalpha()))
            raise ConditionError(
                f"{node.function!r} is no function for conditions; there are {known}.", _line(source, node.at)
            )
        if isinstance(node, Fold):
            _bounded_loop(node, looped)
        inside = looped or isinstance(node, Fold)
        waiting.extend((child, depth + 1, inside) for child in children(node))


def _bounded_loop(node: Fold, looped: bool) -> None:
    if looped:
        raise ConditionError(f"{node.macro!r} stands inside of another loop; conditions loop once.")
    over = node.over
    if not (isinstance(over, Ident) and over.name in VARIABLES) and not isinstance(over, ListOf):
        raise ConditionError(f"{node.macro!r} goes over a list among the facts, such as principal.tags.")
    for inner in walk(node.body):
        if (isinstance(inner, Ident) and inner.name == USER_TEXT) or (
            isinstance(inner, Call) and inner.function == "matches"
        ):
            raise ConditionError(f"{node.macro!r} may neither ask {USER_TEXT} nor use matches().")


def _known_values(tree: Node, source: str) -> None:
    """A comparison with a value that a variable never has is a slip of the pen."""
    for node in walk(tree):
        if isinstance(node, Call):
            for name, texts in comparisons(node, ("_==_", "_!=_", "@in")):
                values = VARIABLES[name].values if name in VARIABLES else ()
                if values and (wrong := sorted(texts - set(values))):
                    raise ConditionError(
                        f"{name} is never {wrong[0]!r}; it is one of {', '.join(values)}.", _line(source, node.at)
                    )


class _Asking:
    """Takes the questions out of a tree."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.found: dict[str, Predicate] = {}

    def formula(self, node: Node) -> Formula:
        """The tree with its largest parts that ask nothing as atoms."""
        if isinstance(node, Call):
            if (predicate := self._predicate(node)) is not None:
                return Ask(predicate)
            if node.function == "!_" and self._asks(node):
                return Not(self.formula(node.args[0]))
            if node.function == "_?_:_" and self._asks(node):
                chosen, yes, no = map(self.formula, node.args)
                return Choose(chosen, yes, no)
            if node.function in ("_&&_", "_||_") and self._asks(node):
                return self._joined(node)
        return _atom(self.plain(node))

    def _joined(self, node: Call) -> Formula:
        """A chain of one operator: what asks nothing first, as one atom."""
        parts = list(_chain(node, node.function))
        plain = [part for part in parts if not self._asks(part)]
        asking = tuple(self.formula(part) for part in parts if self._asks(part))
        if plain:
            whole = self.plain(plain[0])
            for part in plain[1:]:
                whole = Call(node.function, None, (whole, self.plain(part)))
            asking = (_atom(whole), *asking)
        return All(asking) if node.function == "_&&_" else Either(asking)

    def _asks(self, node: Node) -> bool:
        return any(isinstance(inner, Call) and self._predicate(inner) is not None for inner in walk(node))

    def plain(self, node: Node) -> Node:
        """A part that is no formula of `&&`, `||` and `!`: it may hold no question."""
        if node == Ident(USER_TEXT):
            raise ConditionError(
                f"{USER_TEXT} can only be asked: contains, startsWith, endsWith, matches (with a literal) or size()."
            )
        if isinstance(node, Call):
            return self._plain_call(node)
        if isinstance(node, ListOf):
            return ListOf(tuple(self.plain(item) for item in node.items))
        if isinstance(node, Fold):
            return Fold(node.macro, self.plain(node.over), node.variable, self.plain(node.body))
        return node

    def _plain_call(self, node: Call) -> Node:
        if node.function == "size" and Ident(USER_TEXT) in children(node):
            return Ident(TEXT_LENGTH)
        if self._predicate(node) is not None:
            raise ConditionError(
                f"{node.function}() may be joined by &&, || and ! only, not compared or passed on.",
                _line(self.source, node.at),
            )
        target = None if node.target is None else self.plain(node.target)
        return Call(node.function, target, tuple(self.plain(arg) for arg in node.args), node.at)

    def _predicate(self, node: Call) -> Predicate | None:
        """The question that this call is, if it is one."""
        about_words = node.target == Ident(USER_TEXT) and node.function in QUESTIONS
        if not about_words and node.function != "matches":
            return None
        line = _line(self.source, node.at)
        subject, wanted = (node.target, node.args[-1]) if node.target is not None else (node.args[0], node.args[-1])
        if not isinstance(subject, Ident):
            raise ConditionError("matches() asks a variable of the facts.", line)
        if not (isinstance(wanted, Const) and isinstance(wanted.value, str)):
            raise ConditionError(f"{node.function}() takes a literal text here.", line)
        predicate = Predicate(subject.name, _question(node.function), wanted.value)
        try:
            compile_predicate(predicate)
        except BadPattern as problem:
            raise ConditionError(f"{problem}.", line) from problem
        if not fold(wanted.value):
            raise ConditionError(f"{node.function}() with nothing to look for is always true.", line)
        return self.found.setdefault(predicate.id, predicate)


def _chain(node: Node, function: str) -> Iterable[Node]:
    """The operands of a chain of one operator."""
    if isinstance(node, Call) and node.function == function:
        for arg in node.args:
            yield from _chain(arg, function)
    else:
        yield node


def _atom(node: Node) -> Atom:
    names = {inner.name for inner in walk(node) if isinstance(inner, Ident)} & VARIABLES.keys()
    can_fail = any(isinstance(inner, Call) and inner.function in FALLIBLE for inner in walk(node))
    return Atom(write(node), tuple(sorted(names)), can_fail)


def _question(function: str) -> Question:
    for question in get_args(Question):
        if question == function:
            return question  # type: ignore[no-any-return]
    raise AssertionError(function)


def _explained(problem: str) -> ConditionError:
    """The compiler's first complaint as a sentence, with the name that was perhaps meant."""
    place = _PLACE.search(problem)
    if place is None:
        return ConditionError(f"the condition is not CEL: {problem.splitlines()[0]}")
    sentence = place[3].removesuffix(" (in container '')")
    if undeclared := _UNDECLARED.search(sentence):
        near = difflib.get_close_matches(undeclared[1], [*VARIABLES, USER_TEXT], 1)
        sentence = f"there is no variable {undeclared[1]!r}" + (f"; did you mean {near[0]!r}?" if near else ".")
        return ConditionError(sentence, max(int(place[1]) - 1, 0))
    column = f"column {int(place[2])}: " if int(place[2]) > 0 else ""
    return ConditionError(f"{column}{sentence.removesuffix('.')}.", max(int(place[1]) - 1, 0))


def _line(source: str, at: int) -> int:
    return source.count("\n", 0, at)
