"""Plans as the data plane uses them, and what it tells clients of their limits."""

from collections.abc import Container, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from gateway.core.caller import Caller
from gateway.core.errors import ApiError, InsufficientQuota, RateLimited, Unavailable
from gateway.core.reservation import Denial, LimitState
from gateway.fleet.models import Served
from gateway.limits.plans import Limit, Plan, PlanError, binding, parse_plan
from gateway.limits.weights import SCALE

MAX_GRANTS = 100_000


class Grant(NamedTuple):
    """What a caller's plan means for one model. `default_max_tokens` for requests that set no cap of their own."""

    caller: Caller
    default_max_tokens: int
    limits: tuple[Limit, ...]


class Plans:
    """All plans of a folder, and what they grant to each caller for each model (bounded in memory)."""

    def __init__(self, plans: dict[str, Plan]) -> None:
        self._plans = plans
        self._grants: dict[tuple[str, str], Grant] = {}

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

    def unserved(self, models: Container[str]) -> list[tuple[str, str]]:
        """(plan, model) of limits on models that nobody serves here: such a limit binds nothing."""
        limits = ((name, spec.model) for name, plan in self._plans.items() for spec in plan.spec.limits)
        return [(name, model) for name, model in limits if model is not None and model not in models]

    def of(self, caller: Caller, model: Served) -> Grant:
        """What binds `caller` when it asks for `model`. Raises Unavailable where its plan cannot be applied."""
        name = model.entry.name
        grant = self._grants.get((caller.key, name))
        if grant is not None and grant.caller == caller:  # another plan or override makes it another caller
            return grant
        plan = self._plans.get(caller.plan)
        if plan is None:
            raise _not_applicable(f"no plan file {caller.plan!r}")
        try:
            limits = binding(plan, caller, (name, *model.entry.aliases), model.price.weights)
        except PlanError as problem:
            raise _not_applicable(str(problem)) from problem
        if len(self._grants) >= MAX_GRANTS:
            self._grants.clear()
        grant = Grant(caller, plan.spec.default_max_tokens, limits)
        self._grants[caller.key, name] = grant
        return grant

    def all_of(self, caller: Caller, models: Iterable[Served]) -> tuple[Limit, ...]:
        """Every limit that binds `caller` for any of the models, once."""
        limits = (limit for model in models for limit in self.of(caller, model).limits)
        return tuple({(limit.subject, limit.name): limit for limit in limits}.values())


def limits_unknown(problem: Exception) -> Unavailable:
    """Redis is away, and with it all limits (mode `closed`)."""
    return Unavailable(
        "Limits cannot be checked at the moment. Please try again.", detail=f"redis: {problem}", retry_after_ms=1000
    )


def _not_applicable(detail: str) -> Unavailable:
    return Unavailable("The plan of this key cannot be applied by this gateway. Tell whoever runs it.", detail=detail)


def limit_headers(states: tuple[LimitState, ...]) -> list[tuple[bytes, bytes]]:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}` for the tightest limit of each measure (OpenAI's), and
    `ratelimit-policy` and `ratelimit` for all that slide or count a month (draft-ietf-httpapi-ratelimit-headers)."""
    told: dict[str, LimitState] = {}
    policies, left = [], []
    for state in states:
        if state.measure in ("requests", "tokens"):
            best = told.get(state.measure)
            if best is None or state.remaining < best.remaining:
                told[state.measure] = state
        name, scale = f'"{state.level}.{state.name}"', SCALE if state.measure == "cost" else 1
        window = f";w={state.window_ms // 1000}" if state.window_ms else ""
        policies.append(f"{name};q={state.cap // scale}{window}")
        when = "" if state.measure == "concurrency" else f";t={-(-state.reset_ms // 1000)}"
        left.append(f"{name};r={state.remaining // scale}{when}")
    headers = []
    for measure, state in told.items():
        kind = measure.encode()
        headers.append((b"x-ratelimit-limit-" + kind, b"%d" % state.cap))
        headers.append((b"x-ratelimit-remaining-" + kind, b"%d" % state.remaining))
        headers.append((b"x-ratelimit-reset-" + kind, duration(state.reset_ms)))
    if policies:
        headers.append((b"ratelimit-policy", ", ".join(policies).encode()))
        headers.append((b"ratelimit", ", ".join(left).encode()))
    return headers


def duration(ms: int) -> bytes:
    """`12ms`, `1.5s`, `6m0s`: the spelling of OpenAI's reset headers."""
    if ms < 1000:
        return b"%dms" % ms
    minutes, rest = divmod(ms, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return (f"{minutes}m{seconds}s" if minutes else f"{seconds}s").encode()


def limits_body(states: tuple[LimitState, ...], plan: str) -> dict[str, object]:
    """What `GET /v1/limits` answers for one model; a cost is told in cost units."""
    return {
        "object": "limits",
        "plan": plan,
        "data": [
            {
                "name": state.name,
                "level": state.level,
                "measure": state.measure,
                "model": state.model,
                "limit": _told(state, state.cap),
                "remaining": _told(state, state.remaining),
                "reset_ms": state.reset_ms,
            }
            for state in states
        ],
    }


def _told(state: LimitState, number: int) -> float:
    return number / SCALE if state.measure == "cost" else number


def denied(denial: Denial, now_ms: int) -> ApiError:
    """What a refused client reads at `now_ms` since the epoch. It never says a longer wait than is true."""
    limit, whose = denial.limit, f"this {denial.limit.level}"
    headers = tuple(limit_headers(denial.states))
    wait = max(1, -(-denial.retry_after_ms // 1000))
    if limit.measure == "cost" and denial.retry_after_ms >= limit.reset_ms:
        renewed = datetime.fromtimestamp((now_ms + denial.retry_after_ms) / 1000, UTC).date()
        return InsufficientQuota(
            f"The budget of {whose} is spent or has too little left for this request: {limit.cap / SCALE:.12g} cost "
            f"units a month, {limit.remaining / SCALE:.12g} left. It is renewed on {renewed} (UTC).",
            detail=limit.name,
            headers=(*headers, (b"x-should-retry", b"false")),
        )
    if limit.measure == "cost":  # it has enough left, but not this gateway while it is alone
        message = (
            f"Rate limit reached: the part of the budget of {whose} that this gateway may spend at the moment has "
        )
        message += f"too little left for this request. Try again in {wait} s."
    elif limit.measure == "concurrency":
        message = (
            f"Rate limit reached: {limit.cap} requests at a time for {whose}. Try again when one of them has ended."
        )
    else:
        what = limit.name.partition("@")[0].replace("_", " ")
        message = f"Rate limit reached: {limit.cap} {what} for {whose}. Try again in {wait} s."
    if limit.model:
        message += f" The limit is one on the model '{limit.model}' alone."
    error = RateLimited(message, detail=limit.name, retry_after_ms=denial.retry_after_ms, headers=headers)
    error.type = "tokens" if limit.measure == "tokens" else "requests"
    return error
