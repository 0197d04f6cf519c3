"""Files -> a ruleset, and what is wrong with them. Blocks for about a millisecond a policy: on a thread, where requests
are served."""

import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

from gateway.policy.check import Finding, check
from gateway.policy.loader import Policy, parse_policy
from gateway.policy.problem import PolicyError
from gateway.policy.ruleset import Ruleset, build_ruleset
from gateway.storage.policies import Files

USUAL_S, SHORT_S = sys.getswitchinterval(), 0.001


class Examined(NamedTuple):
    """`ruleset`: None where there is an error in a file. `examples`: how many were run."""

    findings: tuple[Finding, ...]
    ruleset: Ruleset | None
    policies: tuple[Policy, ...]
    examples: int

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Those that must be mended."""
        return tuple(finding for finding in self.findings if finding.level == "error")


def load(files: Files) -> Ruleset:
    """Compiled, its examples not run: for what was examined before it was applied. Raises PolicyError."""
    return build_ruleset(parse_policy(text.encode(), name) for name, text in sorted(files.items()))


def examine(files: Files, now_s: int | None = None) -> Examined:
    """All that `policy check` finds, in all files, and their examples run. `now_s`: the time, to tell what has
    expired."""
    findings: list[Finding] = []
    policies: list[Policy] = []
    for name, text in sorted(files.items()):
        try:
            policies.append(parse_policy(text.encode(), name))
        except PolicyError as problem:
            findings.append(finding_of(problem))
    ruleset = None
    try:
        ruleset = build_ruleset(policies) if policies or not findings else None
    except PolicyError as problem:
        findings.append(finding_of(problem))
    findings += check(policies, now_s)
    broken = any(finding.level == "error" for finding in findings)
    examples = sum(len(policy.file.examples) for policy in policies)
    return Examined(tuple(sorted(findings)), None if broken else ruleset, tuple(policies), examples)


def load_examined(files: Files) -> Ruleset:
    """Compiled, if nothing in it is an error. Raises PolicyError: the first that is."""
    examined = examine(files)
    if examined.ruleset is None:
        raise first_of(examined.errors)
    return examined.ruleset


def load_aside(loading: Callable[[Files], Ruleset], files: Files) -> Ruleset:
    """`loading` on a thread beside requests. Python gives a busy thread 5 ms before another has its turn, and a request
    would wait so long at each of its steps: with 1 ms it waits a quarter of that. Raises PolicyError."""
    sys.setswitchinterval(SHORT_S)
    try:
        return loading(files)
    finally:
        sys.setswitchinterval(USUAL_S)


def first_of(errors: Iterable[Finding]) -> PolicyError:
    """The first of them, to be raised."""
    first = next(iter(errors))
    return PolicyError(first.file, first.line, first.sentence)


def finding_of(problem: PolicyError) -> Finding:
    """An error among other findings."""
    return Finding(problem.file, problem.line, "error", problem.sentence)
