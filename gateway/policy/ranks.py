"""Ranks: what an expression tells apart in a variable that it only compares with constants.

Such an expression comes to the same for any two numbers that stand alike to each of its constants (below, equal, above)
and for any two texts that equal none of them. So results can be remembered by ranks, of which there are few, where
values are another at each request. A variable that stands anywhere else, in a sum or in `contains`, has no rank.
"""

from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from math import inf, nextafter
from typing import Any

from gateway.core.facts import Facts
from gateway.policy.syntax import Call, Const, Ident, ListOf, Node, children
from gateway.policy.variables import VARIABLES

Rank = Callable[[Any], Any]
"""From a variable's value to something hashable that is equal for values not told apart."""

EQUALITIES = ("_==_", "_!=_", "@in")
COMPARISONS = (*EQUALITIES, "_<_", "_<=_", "_>_", "_>=_")
BELOW, ABOVE = -(2**63), 2**63
"""From the first on, and below the second, a whole number is a value to CEL."""

_KINDS = {
    name: kind
    for name, variable in VARIABLES.items()
    if (kind := type(variable.of(Facts()))) in (str, int, float) and not variable.values
}
"""Types of the variables that may be ranked; those that have a few values only are not worth it."""


def ranks(tree: Node) -> dict[str, Rank]:
    """By name, those of the variables that are compared with constants of their own type and nothing else."""
    constants: dict[str, set[Any]] = {}
    whole: set[str] = set()
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if (compared := _compared(node)) is not None:
            name, values = compared
            constants.setdefault(name, set()).update(values)
            continue
        if isinstance(node, Ident):
            whole.add(node.name)
        waiting.extend(children(node))
    return {name: _rank(_KINDS[name], values) for name, values in constants.items() if name not in whole}


def _compared(node: Node) -> tuple[str, list[Any]] | None:
    """The variable and the constants, where the node is such a comparison."""
    if not isinstance(node, Call) or node.function not in COMPARISONS:
        return None
    left, right = node.args
    if node.function == "@in":
        items = right.items if isinstance(right, ListOf) else (right,)
    else:
        left, right = (right, left) if isinstance(right, Ident) else (left, right)
        items = (right,)
    kind = _KINDS.get(left.name) if isinstance(left, Ident) else None
    if kind is None or (kind is str and node.function not in EQUALITIES):
        return None
    values = [item.value for item in items if isinstance(item, Const) and not item.unsigned]
    fit = len(values) == len(items) and all(type(value) is kind for value in values)
    return (left.name, values) if isinstance(left, Ident) and fit else None


def _rank(kind: type, constants: set[Any]) -> Rank:
    if kind is str:
        # beyond ASCII a text keeps its value: half of a surrogate pair is none to CEL, and no rank may hide that
        return lambda text: text if text in constants or not text.isascii() else None
    if kind is int:
        cuts = {BELOW, ABOVE} | constants | {number + 1 for number in constants}
    else:
        # what is no number at all shares its rank with infinity, not with any that is
        cuts = {inf} | constants | {nextafter(number, inf) for number in constants}
    return partial(bisect_right, sorted(cuts))
