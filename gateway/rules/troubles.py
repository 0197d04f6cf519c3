"""What goes wrong with the ruleset in force: one line for each new problem, one when it is over, and the metrics."""

from typing import Literal

import structlog

from gateway.policy.problem import PolicyError
from gateway.rules import metrics

Part = Literal["rules", "database", "redis", "last_good", "archive"]
SERIOUS: frozenset[Part] = frozenset({"rules", "database"})
"""While one of these is in trouble, what is in force may not be what should be."""

FAILED = "failed"

log = structlog.get_logger()


class Troubles:
    """A part has one problem at a time."""

    def __init__(self) -> None:
        self._problems: dict[Part, str] = {}

    @property
    def ok(self) -> bool:
        """Whether what should be in force is."""
        return not SERIOUS & self._problems.keys()

    def of(self, part: Part) -> str | None:
        """Its problem, as it was told."""
        return self._problems.get(part)

    def policies(self, problem: PolicyError) -> None:
        """The files cannot be used. Of what stands in a file only the place is told: `catflap policy check` says the
        rest, to whoever may read policies."""
        said = {"reason": problem.sentence} if not problem.line else {"see": "catflap policy check"}
        self._begin("rules", str(problem), file=problem.file, line=problem.line, **said)

    def failed(self, part: Part, error: str) -> None:
        """Something does not answer, or fails; `error` is its kind. Told once, whatever kinds follow."""
        self._begin(part, FAILED, error=error)

    def over(self, part: Part) -> None:
        """It works."""
        if self._problems.pop(part, None) is not None:
            log.info("policy_problem_over", part=part)
        self.show()

    def show(self) -> None:
        """As a metric."""
        metrics.ok.set(int(self.ok))

    def _begin(self, part: Part, problem: str, **said: object) -> None:
        if self._problems.get(part) == problem:
            return
        self._problems[part] = problem
        if part in SERIOUS:
            metrics.load_failures.labels(part).inc()
        log.error("policy_problem", part=part, effect=EFFECTS[part], **said)
        self.show()


EFFECTS: dict[Part, str] = {
    "rules": "the last good ruleset stays in force",
    "database": "the ruleset stays as it is; changes are not seen",
    "redis": "changes are seen a few seconds later",
    "last_good": "a restart may begin without the last good ruleset",
    "archive": "decisions of this ruleset may not be explained later",
}
