"""Files -> a ruleset, and what is wrong with them. Blocks for about a millisecond a policy: on a thread, where requests
are served."""

import sys
from collections.abc import Callable
from typing import NamedTuple

from gateway.policy.check import Finding, check
from gateway.policy.examples import run_examples
from gateway.policy.loader import Policy, parse_policy
from gateway.policy.problem import PolicyError
from gateway.policy.ruleset import Ruleset, build_ruleset, no_rules
from gateway.storage.policies import Files


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


class Loaded(NamedTuple):
    """A ruleset and the files that it is of: what of it is in other files too need not be read again."""

    ruleset: Ruleset
    files: Files


NOTHING = Loaded(no_rules(), {})
Loading = Callable[[Files, Loaded], Ruleset]
USUAL_S, SHORT_S = sys.getswitchinterval(), 0.001


def load(files: Files, before: Loaded = NOTHING) -> Ruleset:
    """Compiled, its examples not run: for what was examined before it was applied. Raises PolicyError."""
    return build_ruleset(_policies(files, _same(files, before)))


def load_examined(files: Files, before: Loaded = NOTHING) -> Ruleset:
    """Compiled, and the examples of what is new in it run. Raises PolicyError: the first thing that is wrong."""
    same = _same(files, before)
    policies = _policies(files, same)
    ruleset = build_ruleset(policies)
    for policy in policies:
        failures = () if policy.document.file in same else run_examples(policy)
        for failure in failures:
            raise PolicyError(failure.file, failure.line, f"this example fails: {failure.sentence}")
    return ruleset


def _same(files: Files, before: Loaded) -> dict[str, Policy]:
    """By the names of their files."""
    known = {policy.document.file: policy for policy in before.ruleset.policies}
    return {name: policy for name, policy in known.items() if files.get(name) == before.files.get(name)}


def _policies(files: Files, same: dict[str, Policy]) -> list[Policy]:
    return [same.get(name) or parse_policy(text.encode(), name) for name, text in sorted(files.items())]


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


def load_aside(loading: Loading, files: Files, before: Loaded) -> Ruleset:
    """`loading` on a thread beside requests. Python gives a busy thread 5 ms before another has its turn, and a request
    would wait so long at each of its steps: with 1 ms it waits a quarter of that. Raises PolicyError."""
    sys.setswitchinterval(SHORT_S)
    try:
        return loading(files, before)
    finally:
        sys.setswitchinterval(USUAL_S)


def finding_of(problem: PolicyError) -> Finding:
    """An error among other findings."""
    return Finding(problem.file, problem.line, "error", problem.sentence)
