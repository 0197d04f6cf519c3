"""Mutation testing: does a test fail when the code is made wrong? `python -m lab.mutation [MODULE ...]`.

Each mutant is one small change of a module: another comparison, operator or constant, a negated condition, a statement
left out. It is run in a process of its own, forked from one that has pytest and the libraries loaded; the project's own
modules are imported afresh there, with the mutant in the place of the module. A mutant is killed when a test fails or
takes too long. Printed are the mutants that live, and the share that was killed.

mutmut and cosmic-ray were looked at: both start pytest anew for each mutant or copy the tree, which costs seconds for
each of some hundred mutants on the machine that everything else here runs on.
"""

import ast
import copy
import importlib.abc
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
SUITES: dict[str, tuple[str, ...]] = {
    "gateway.policy.decide": ("tests/unit/policy/test_decide.py",),
    "gateway.policy.rewrite": ("tests/unit/policy/test_rewrite.py",),
    "gateway.policy.disguise": ("tests/unit/policy/test_disguise.py",),
}
"""Module -> the tests that must kill its mutants."""
WANTED = 0.9
LONGEST_S = 60
CASES = 25
"""Examples of each property test: a mutant that only a rare case kills counts as alive."""
QUIETLY = ("-x", "-q", "-p", "no:cacheprovider", "--noconftest", "--assert=plain",
           "-W", "ignore::pytest.PytestAssertRewriteWarning")  # fmt: skip
"""The libraries are loaded before pytest could rewrite their assertions, which it need not."""

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd, ast.RShift: ast.LShift,
    ast.LShift: ast.RShift, ast.Pow: ast.Mult,
}  # fmt: skip
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "startswith": "endswith", "endswith": "startswith"}


class Mutant(NamedTuple):
    """`what` was changed in line `line` of the module."""

    module: str
    line: int
    what: str
    tree: ast.Module


def main(names: Sequence[str]) -> int:
    modules = list(names) or list(SUITES)
    if unknown := [name for name in modules if name not in SUITES]:
        print(f"There are no tests to judge {unknown[0]!r} by; name some of {', '.join(SUITES)}.", file=sys.stderr)
        return 2
    preload()
    failed = False
    for name in modules:
        if killed_by(unchanged(name), SUITES[name]):
            print(f"{name}: the tests fail on the module as it is; nothing can be told.")
            return 1
        killed, alive = 0, []
        for mutant in mutants(name):
            if killed_by(mutant, SUITES[name]):
                killed += 1
            else:
                alive.append(mutant)
                print(f"  alive: {name} line {mutant.line}: {mutant.what}", flush=True)
        share = killed / (killed + len(alive))
        failed |= share < WANTED
        print(f"{name}: {killed} of {killed + len(alive)} mutants killed ({share:.1%})", flush=True)
    return int(failed)


def unchanged(name: str) -> Mutant:
    """The module as it is."""
    return Mutant(name, 0, "nothing", ast.parse((ROOT / f"{name.replace('.', '/')}.py").read_text()))


def mutants(name: str) -> Iterator[Mutant]:
    """Every mutant of a module."""
    tree = unchanged(name).tree
    spared = silent(tree)
    for index, node in enumerate(ast.walk(tree)):
        if node in spared:
            continue
        for number, what in enumerate(changes(node)):
            twin = copy.deepcopy(tree)
            target = list(ast.walk(twin))[index]
            apply(target, number)
            yield Mutant(name, getattr(node, "lineno", 0), what, ast.fix_missing_locations(twin))


def silent(tree: ast.Module) -> set[ast.AST]:
    """Nodes that nothing runs by: documentation and annotations."""
    roots: list[ast.AST | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            roots.append(node.value)
        elif isinstance(node, ast.arg | ast.AnnAssign):
            roots.append(node.annotation)
        elif isinstance(node, ast.FunctionDef):
            roots.append(node.returns)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and _called(node.value) == "TypeVar":
            roots.append(node)
    return {inner for root in roots if root is not None for inner in ast.walk(root)}


def changes(node: ast.AST) -> list[str]:
    """What can be done to a node, in words; `apply` does them by number."""
    if isinstance(node, ast.Compare):
        return [f"{type(op).__name__} -> {COMPARISONS[type(op)].__name__}" for op in node.ops]
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in OPERATORS:
        return [f"{type(node.op).__name__} -> {OPERATORS[type(node.op)].__name__}"]
    if isinstance(node, ast.BoolOp):
        return ["and <-> or"] + [f"operand {number} left out" for number in range(len(node.values))]
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        return ["condition negated"]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        return ["operator left out"]
    if isinstance(node, ast.Constant) and node.value is not Ellipsis:
        return ["constant changed"]
    if isinstance(node, ast.Call) and _called(node) in CALLS:
        return [f"{_called(node)} -> {CALLS[_called(node)]}"]
    if isinstance(node, ast.Assign | ast.AugAssign) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        return ["statement left out"]
    if isinstance(node, ast.Return) and node.value is not None:
        return ["returns None"]
    return []


def apply(node: ast.AST, number: int) -> None:
    """The change of this number, in place."""
    if isinstance(node, ast.Compare):
        node.ops[number] = COMPARISONS[type(node.ops[number])]()
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        node.op = OPERATORS[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        if number:
            node.values = [value for place, value in enumerate(node.values) if place != number - 1]
        else:
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    else:
        _apply_to_a_part(node)


def _apply_to_a_part(node: ast.AST) -> None:
    """Of the nodes to which one thing only can be done."""
    if isinstance(node, ast.UnaryOp):
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
        else:
            node.op = ast.UAdd()
    elif isinstance(node, ast.Constant):
        node.value = _other(node.value)
    elif isinstance(node, ast.Call):
        _rename(node.func)
    elif isinstance(node, ast.Assign) and (width := _width(node)):
        # names stay bound, so that it is the value that is missing and not the name
        node.value = ast.Tuple([ast.Constant(None)] * width, ast.Load())
    elif isinstance(node, ast.Return | ast.Assign | ast.Expr):
        node.value = ast.Constant(None)


def _rename(function: ast.expr) -> None:
    if isinstance(function, ast.Name):
        function.id = CALLS[function.id]
    elif isinstance(function, ast.Attribute):
        function.attr = CALLS[function.attr]


def _other(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"{value}~" if isinstance(value, str) else value


def _width(node: ast.Assign) -> int:
    target = node.targets[0]
    return len(target.elts) if isinstance(target, ast.Tuple) else 0


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def preload() -> None:
    """What every child needs and no mutant touches."""
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT)]
    for name in ("pytest", "hypothesis", "msgspec", "yaml", "re2", "cel_expr_python", "jinja2", "tests.unit"):
        importlib.import_module(name)


def killed_by(mutant: Mutant, tests: tuple[str, ...]) -> bool:
    """Run the tests in a child with the mutant in place."""
    child = os.fork()
    if child == 0:
        os._exit(run_tests(mutant, tests))
    until = time.monotonic() + LONGEST_S
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def run_tests(mutant: Mutant, tests: tuple[str, ...]) -> int:
    """In the child: 0 where all tests pass."""
    import hypothesis  # noqa: PLC0415 (loaded by the parent)
    import pytest  # noqa: PLC0415

    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    phases = [phase for phase in hypothesis.Phase if phase.name not in ("shrink", "explain")]
    hypothesis.settings.register_profile(
        "mutation", max_examples=CASES, deadline=None, derandomize=True, database=None, phases=phases
    )
    hypothesis.settings.load_profile("mutation")
    sys.meta_path.insert(0, _Finder(mutant.module, compile(mutant.tree, mutant.module, "exec")))
    try:
        return int(pytest.main([*QUIETLY, *tests]))
    except BaseException:  # noqa: BLE001 (whatever a mutant does, it is dead)
        return 1


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the mutant for the module's name."""

    def __init__(self, name: str, code: CodeType) -> None:
        self.name, self.code = name, code

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name == self.name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(self.code, module.__dict__)  # noqa: S102 (the mutant, of our own source)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
