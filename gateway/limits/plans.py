"""Plans: which limits bind a caller, and how many output tokens a request gets that does not say.

A plan is a file in `policies/plans/`; its JSON Schema is policies/plans/plan.schema.json.
"""

from collections.abc import Collection
from typing import Annotated, Literal, get_args

import msgspec
import yaml
from msgspec import Meta

from gateway.core.caller import Caller, Override
from gateway.core.delta import Usage
from gateway.limits.weights import ONE_REQUEST, SCALE, Weights, thousandths

Measure = Literal["requests", "tokens", "concurrency", "cost"]
Level = Literal["organisation", "project", "principal", "key"]
Period = Literal["minute", "day", "month"]
PERIODS: dict[Measure, tuple[Period | None, ...]] = {
    "requests": ("minute", "day"),
    "tokens": ("minute", "day"),
    "concurrency": (None,),
    "cost": ("month",),
}
"""Minutes and days slide; a month is the calendar's, in UTC; concurrency has no period."""
WINDOW_MS: dict[Period | None, int] = {"minute": 60_000, "day": 86_400_000}
BUCKET_MS: dict[Period | None, int] = {"minute": 1_000, "day": 900_000}
"""Width of a window's sub-buckets. The oldest counts whole, so a window of 60 s is held for up to 61 s."""
MAX_LIMITS = 16
"""Of a plan; a principal's own may come to as many beside them. Each is a key that the admission script reads."""
MAX_WEIGHT = 1000.0

Weight = Annotated[float, Meta(ge=0, le=MAX_WEIGHT)]


class PlanError(Exception):
    """A plan file cannot be used; the message is a sentence for its author."""


class LimitSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most `limit` requests or (weighted) tokens in any minute or day, requests at a time, or cost units a month."""

    measure: Measure
    limit: Annotated[int, Meta(ge=1, le=10**12)]
    per: Period | None = None
    """`minute` or `day`; a cost's is `month`; concurrency has none."""
    at: Level = "key"
    """Whose: all that callers of one organisation, project, principal or key ask together is counted."""
    model: str | None = None
    """Only requests for the model of this public name; without it, for all together."""

    @property
    def name(self) -> str:
        """`tokens_per_minute`; for one model only, `tokens_per_minute@MODEL`."""
        name = self.measure if self.per is None else f"{self.measure}_per_{self.per}"
        return name if self.model is None else f"{name}@{self.model}"


class WeightSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much a token of each kind counts against limits on tokens; three decimals are kept."""

    prompt: Weight = 1.0
    cached: Weight | None = None
    """A prompt token that the backend found in its cache, where it says so; as `prompt` when not given."""
    output: Weight = 1.0


class PlanSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan grants."""

    default_max_tokens: Annotated[int, Meta(ge=1)]
    """Output tokens of a request that sets no cap of its own: both reserved and enforced."""
    limits: Annotated[tuple[LimitSpec, ...], Meta(max_length=MAX_LIMITS)] = ()
    weights: WeightSpec = WeightSpec()


class PlanMetadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The plan's name and what it is for."""

    id: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    description: str


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole plan file."""

    api_version: Literal["catflap/v1"] = msgspec.field(name="apiVersion")
    kind: Literal["Plan"]
    metadata: PlanMetadata
    spec: PlanSpec


class Limit(msgspec.Struct, frozen=True):
    """A limit as it binds one caller: at most `cap` units of `measure`, counted for `subject`.

    `window_ms` and `bucket_ms` are 0 where nothing slides (concurrency, cost); the cap of a cost is in thousandths.
    """

    name: str
    level: Level
    subject: str
    measure: Measure
    cap: int
    window_ms: int
    bucket_ms: int
    model: str | None
    weights: Weights

    def units(self, usage: Usage) -> int:
        """What a request of so many tokens takes from it."""
        return self.weights.units(usage)


def parse_plan(data: bytes, name: str) -> Plan:
    """The plan in the file `name` with the bytes `data`. Raises PlanError."""
    try:
        plan = msgspec.convert(yaml.safe_load(data), Plan)
    except yaml.YAMLError as problem:
        raise PlanError(f"{name} is not valid YAML: {' '.join(str(problem).split())}") from problem
    except msgspec.ValidationError as problem:
        raise PlanError(f"{name}: {problem}") from problem
    limits = tuple(whole(limit, name) for limit in plan.spec.limits)
    known = [(limit.name, limit.at) for limit in limits]
    if len(known) != len(set(known)):
        raise PlanError(f"{name}: two limits have the same measure, period, model and level; keep one of them.")
    weights = plan.spec.weights
    if weights.cached is not None and weights.cached > weights.prompt:
        raise PlanError(f"{name}: weights.cached is above weights.prompt; what is reserved would then be too little.")
    return msgspec.structs.replace(plan, spec=msgspec.structs.replace(plan.spec, limits=limits))


def whole(limit: LimitSpec, name: str) -> LimitSpec:
    """The limit with its period filled in. Raises PlanError where measure and period do not go together."""
    periods = PERIODS[limit.measure]
    if limit.per is None:
        return msgspec.structs.replace(limit, per=periods[0])
    if limit.per not in periods:
        allowed = " or ".join(period for period in periods if period) or "no period at all"
        raise PlanError(f"{name}: a limit on {limit.measure} takes {allowed}, not {limit.per!r}.")
    return limit


def plan_schema() -> dict[str, object]:
    """The JSON Schema of a plan file."""
    return msgspec.json.schema(Plan)


def binding(plan: Plan, caller: Caller, names: Collection[str], price: Weights) -> tuple[Limit, ...]:
    """The limits that bind `caller` asking for the model of these public names: those of `plan`, in the order of the
    file, a principal's own in the place of the plan's. `price` is the model's. Raises PlanError where an override makes
    no limit, or they are too many for one script."""
    specs = {(spec.name, spec.at): spec for spec in plan.spec.limits}
    for override in caller.overrides:
        own = override_spec(override)
        specs[own.name, own.at] = own
    limits = tuple(
        _limit(spec, plan, caller, price) for spec in specs.values() if spec.model is None or spec.model in names
    )
    if len(limits) > 2 * MAX_LIMITS:
        raise PlanError(f"{len(limits)} limits bind principal {caller.principal}; at most {2 * MAX_LIMITS} can.")
    return limits


def override_spec(override: Override) -> LimitSpec:
    """The limit that a principal's own setting means. Raises PlanError."""
    name = "this limit"
    try:
        spec = msgspec.convert({**msgspec.structs.asdict(override), "at": "principal"}, LimitSpec)
    except msgspec.ValidationError as problem:
        raise PlanError(f"{name}: {problem}; measures are {', '.join(get_args(Measure))}") from problem
    return whole(spec, name)


def _limit(spec: LimitSpec, plan: Plan, caller: Caller, price: Weights) -> Limit:
    subject = {
        "organisation": caller.organisation,
        "project": caller.project,
        "principal": caller.principal,
        "key": caller.key,
    }
    weights = {"tokens": _token_weights(plan.spec.weights), "cost": price}
    return Limit(
        spec.name,
        spec.at,
        subject[spec.at],
        spec.measure,
        spec.limit * (SCALE if spec.measure == "cost" else 1),
        WINDOW_MS.get(spec.per, 0),
        BUCKET_MS.get(spec.per, 0),
        spec.model,
        weights.get(spec.measure, ONE_REQUEST),
    )


def _token_weights(spec: WeightSpec) -> Weights:
    cached = spec.prompt if spec.cached is None else spec.cached
    return Weights(thousandths(spec.prompt), thousandths(cached), thousandths(spec.output))
