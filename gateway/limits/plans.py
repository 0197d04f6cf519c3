"""Plans: which limits bind a caller, and how many output tokens a request gets that does not say.

A plan is a file in `policies/plans/`; its JSON Schema is policies/plans/plan.schema.json.
"""

from typing import Annotated, Literal

import msgspec
import yaml
from msgspec import Meta

from gateway.core.caller import Caller

Measure = Literal["requests", "tokens"]
WINDOW_MS = {"minute": 60_000}
BUCKET_MS = {"minute": 1_000}
"""Width of a window's sub-buckets. The oldest counts whole, so a window of 60 s is held for up to 61 s."""


class PlanError(Exception):
    """A plan file cannot be used; the message is a sentence for its author."""


class LimitSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At most `limit` requests or tokens in any minute."""

    measure: Measure
    limit: Annotated[int, Meta(ge=1, le=10**12)]
    per: Literal["minute"] = "minute"
    at: Literal["key"] = "key"


class PlanSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan grants."""

    default_max_tokens: Annotated[int, Meta(ge=1)]
    """Output tokens of a request that sets no cap of its own: both reserved and enforced."""
    limits: tuple[LimitSpec, ...] = ()


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
    """A limit as it binds one caller: `cap` units of `measure` in any `window_ms`, counted for `subject`."""

    name: str
    subject: str
    measure: Measure
    cap: int
    window_ms: int
    bucket_ms: int

    def cost(self, tokens: int) -> int:
        """What one request with so many tokens takes from it."""
        return tokens if self.measure == "tokens" else 1


def parse_plan(data: bytes, name: str) -> Plan:
    """The plan in the file `name` with the bytes `data`. Raises PlanError."""
    try:
        plan = msgspec.convert(yaml.safe_load(data), Plan)
    except yaml.YAMLError as problem:
        raise PlanError(f"{name} is not valid YAML: {' '.join(str(problem).split())}") from problem
    except msgspec.ValidationError as problem:
        raise PlanError(f"{name}: {problem}") from problem
    limits = [(limit.measure, limit.per, limit.at) for limit in plan.spec.limits]
    if len(limits) != len(set(limits)):
        raise PlanError(f"{name}: two limits have the same measure, period and level; keep one of them.")
    return plan


def plan_schema() -> dict[str, object]:
    """The JSON Schema of a plan file."""
    return msgspec.json.schema(Plan)


def binding(plan: Plan, caller: Caller) -> tuple[Limit, ...]:
    """The limits of `plan` that bind `caller`, in the order of the file."""
    return tuple(
        Limit(
            f"{spec.measure}_per_{spec.per}",
            caller.key,
            spec.measure,
            spec.limit,
            WINDOW_MS[spec.per],
            BUCKET_MS[spec.per],
        )
        for spec in plan.spec.limits
    )
