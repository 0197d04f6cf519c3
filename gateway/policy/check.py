"""check: what is wrong, or looks wrong, with a set of policies that load. Errors must be mended; warnings are read."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from gateway.core.record import MAX_ANSWERS
from gateway.policy.condition import Condition, comparisons
from gateway.policy.examples import run_examples
from gateway.policy.loader import Policy
from gateway.policy.problem import PolicyError
from gateway.policy.syntax import Call, Const, Ident, Node, walk
from gateway.policy.text import Predicate, compile_pattern
from gateway.policy.variables import INDEXED, STATES

DEAR = 300
"""Steps a character from which a pattern is told as dear."""
LATEST = "spec", "schedule", "until"


class Finding(NamedTuple):
    """Something about a policy. `error`: it must not be applied so."""

    file: str
    line: int
    level: Literal["error", "warning"]
    sentence: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.level}: {self.sentence}"


def check(policies: Iterable[Policy], now_s: int | None = None) -> tuple[Finding, ...]:
    """All findings, by file and line. `now_s`: the time, to tell what has expired; None to leave that out."""
    ordered = sorted(policies, key=lambda policy: (-policy.file.spec.priority, policy.id))
    found: list[Finding] = []
    for place, policy in enumerate(ordered):
        found += _examples(policy)
        found += _alone(policy, now_s)
        found += _behind(policy, ordered[:place])
    found += _too_curious([policy for policy in ordered if policy.file.spec.mode != "off"])
    return tuple(sorted(found))


def _examples(policy: Policy) -> Iterator[Finding]:
    try:
        failures = run_examples(policy)
    except PolicyError as problem:
        yield Finding(problem.file, problem.line, "error", problem.sentence)
        return
    for failure in failures:
        yield Finding(failure.file, failure.line, "error", f"this example fails: {failure.sentence}")


def _alone(policy: Policy, now_s: int | None) -> Iterator[Finding]:
    match = ("spec", "match")
    if reason := never_holds(policy.condition):
        yield _warning(policy, f"the condition can never hold: {reason}.", *match)
    if any(_constant(part) is True for part in policy.condition.conjuncts.values()):
        yield _warning(policy, "a part of the condition is always true.", *match)
    for predicate in policy.condition.predicates:
        if predicate.question == "matches" and (steps := compile_pattern(predicate.wanted).programsize) > DEAR:
            yield _warning(policy, f"the pattern {predicate.wanted[:40]!r} costs {steps} steps a character.", *match)
    if now_s is not None and policy.times.until is not None and policy.times.until <= now_s:
        yield _warning(policy, "the policy has expired; take it out.", *LATEST)
    if policy.contains and policy.file.spec.mode == "enforce" and not _asks_who(policy.condition):
        yield _warning(policy, "it contains principals whoever they are; honest ones can meet it.", *match)


def _behind(policy: Policy, before: list[Policy]) -> Iterator[Finding]:
    """What rules that go first leave of this one. Said only where it is certain."""
    if policy.file.spec.mode != "enforce":
        return
    for other in before:
        if not _always_acts(other) or not covers(other.condition, policy.condition):
            continue
        if other.actions.refusal is not None:
            yield _warning(policy, f"it is never reached: {other.id} refuses all that it matches.", "spec", "match")
            return
        for kind in ("shadow", "slow"):
            if getattr(policy.actions, kind) is not None and getattr(other.actions, kind) is not None:
                yield _warning(policy, f"its {kind} never counts: that of {other.id} goes first.", "spec", "actions")


def _too_curious(rules: Sequence[Policy]) -> Iterator[Finding]:
    """Told at the first rule with which a record may be too small for the answers."""
    few = bisect_right(range(len(rules) + 1), MAX_ANSWERS, key=lambda count: asked_at_once(rules[:count]))
    if few > len(rules):
        return
    yield _warning(
        rules[few - 1],
        f"with it the rules may ask {asked_at_once(rules):,} things about the words of one request, and a record holds "
        f"{MAX_ANSWERS} answers: `explain` and `simulate` will not know the others. Ask less, or of fewer requests.",
        "spec",
        "match",
    )


def asked_at_once(rules: Iterable[Policy]) -> int:
    """A bound on how many questions about its words one request is asked."""
    bounds = []
    for name in INDEXED:
        always: set[Predicate] = set()
        by_value: defaultdict[str, set[Predicate]] = defaultdict(set)
        for rule in rules:
            asked = {predicate for predicate in rule.condition.predicates if predicate.of_words}
            values = rule.condition.allowed.get(name)
            for part in [always] if values is None else [by_value[value] for value in values]:
                part |= asked
        bounds.append(max(len(always | own) for own in (set[Predicate](), *by_value.values())))
    return min(bounds)


def never_holds(condition: Condition) -> str | None:
    """Why it cannot hold, where that is certain."""
    if any(_constant(part) is False for part in condition.conjuncts.values()):
        return "a part of it is false"
    for name, values in condition.allowed.items():
        if not values:
            return f"it asks {name} to have two values at once"
    return None


def covers(wide: Condition, narrow: Condition) -> bool:
    """Whether `wide` certainly holds wherever `narrow` does: each of its parts is one of the other's, or limits a
    variable to values that the other allows no more of."""
    return all(
        name in narrow.conjuncts or _constant(part) is True or _implied(part, narrow)
        for name, part in wide.conjuncts.items()
    )


def _implied(part: Node, narrow: Condition) -> bool:
    limits = list(comparisons(part, ("_==_", "@in"))) if isinstance(part, Call) else []
    return bool(limits) and all(name in narrow.allowed and narrow.allowed[name] <= values for name, values in limits)


def _constant(part: Node) -> object:
    return part.value if isinstance(part, Const) else None


def _always_acts(policy: Policy) -> bool:
    spec = policy.file.spec
    return spec.mode == "enforce" and spec.rollout.percent >= 100 and policy.times.always


def _asks_who(condition: Condition) -> bool:
    """Whether it asks for a bad state, or for certain principals."""
    if condition.allowed.get("principal.state", frozenset(STATES)) <= {"suspicious", "contained", "blocked"}:
        return True
    names = {node.name for part in condition.conjuncts.values() for node in walk(part) if isinstance(node, Ident)}
    return bool(names & {"principal.id", "principal.cluster", "principal.tags", "principal.org"})


def _warning(policy: Policy, sentence: str, *path: str) -> Finding:
    return Finding(policy.document.file, policy.document.line(path), "warning", sentence)
