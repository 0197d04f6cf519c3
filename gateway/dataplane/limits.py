"""Plans as the data plane uses them, and what it tells clients of their limits."""

from pathlib import Path

from gateway.core.caller import Caller
from gateway.core.errors import RateLimited, Unavailable
from gateway.core.reservation import Denial, LimitState
from gateway.limits.plans import Limit, Plan, PlanError, binding, parse_plan

MAX_BOUND = 100_000


class Plans:
    """All plans of a folder, and the limits that they mean for each caller (bounded in memory)."""

    def __init__(self, plans: dict[str, Plan]) -> None:
        self._plans = plans
        self._bound: dict[str, tuple[int, tuple[Limit, ...]]] = {}

    @classmethod
    def read(cls, folder: Path) -> "Plans":
        """Every `*.yaml` in the folder. Raises PlanError."""
        plans = {}
        for path in sorted(folder.glob("*.yaml")):
            plan = parse_plan(path.read_bytes(), str(path))
            if plan.metadata.id != path.stem:
                raise PlanError(
                    f"{path}: metadata.id is {plan.metadata.id!r}; it must be the file's name, {path.stem!r}."
                )
            plans[plan.metadata.id] = plan
        if not plans:
            raise PlanError(f"There is no plan in {folder}. Set CATFLAP_POLICIES to the folder that holds 'plans'.")
        return cls(plans)

    def of(self, caller: Caller) -> tuple[int, tuple[Limit, ...]]:
        """(default output tokens, limits that bind). Raises Unavailable where the caller's plan has no file."""
        bound = self._bound.get(caller.key)
        if bound is not None:
            return bound
        plan = self._plans.get(caller.plan)
        if plan is None:
            raise Unavailable(
                "The plan of this key is not known to this gateway. Tell whoever runs it.",
                detail=f"no plan file {caller.plan!r}",
            )
        if len(self._bound) >= MAX_BOUND:
            self._bound.clear()
        bound = plan.spec.default_max_tokens, binding(plan, caller)
        self._bound[caller.key] = bound
        return bound


def limit_headers(states: tuple[LimitState, ...]) -> list[tuple[bytes, bytes]]:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`; the tightest limit of each measure is told."""
    told: dict[str, LimitState] = {}
    for state in states:
        best = told.get(state.measure)
        if best is None or state.remaining < best.remaining:
            told[state.measure] = state
    headers = []
    for measure, state in told.items():
        name = measure.encode()
        headers.append((b"x-ratelimit-limit-" + name, b"%d" % state.cap))
        headers.append((b"x-ratelimit-remaining-" + name, b"%d" % state.remaining))
        headers.append((b"x-ratelimit-reset-" + name, duration(state.reset_ms)))
    return headers


def duration(ms: int) -> bytes:
    """`12ms`, `1.5s`, `6m0s`: the spelling of OpenAI's reset headers."""
    if ms < 1000:
        return b"%dms" % ms
    minutes, rest = divmod(ms, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return (f"{minutes}m{seconds}s" if minutes else f"{seconds}s").encode()


def denied(denial: Denial) -> RateLimited:
    """What a refused client reads."""
    limit = denial.limit
    unit = limit.name.replace("_", " ")
    wait = max(1, -(-denial.retry_after_ms // 1000))
    error = RateLimited(
        f"Rate limit reached: {limit.cap} {unit} for this key. Try again in {wait} s.",
        detail=limit.name,
        retry_after_ms=denial.retry_after_ms,
        headers=tuple(limit_headers(denial.states)),
    )
    error.type = limit.measure
    return error
