"""The shape of a policy file: what it does not know, it refuses. policies/policy.schema.json is made from these
classes.

Defaults are left out of what is hashed, so a field that a later version adds changes no ruleset's version.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from gateway.core.facts import ClientFacts, PrincipalFacts, SignalFacts, SurgeFacts

Mode = Literal["off", "log", "enforce"]
Kind = Literal["rewrite", "canary", "shadow", "slow", "flag", "cap", "throttle", "deny"]
CONTAINING: frozenset[Kind] = frozenset({"rewrite", "canary", "shadow", "slow"})
"""Actions that serve a principal otherwise than it is told."""
OVERT: frozenset[Kind] = frozenset({"cap", "throttle", "deny"})
"""Actions that a principal can see."""

Id = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Sentence = Annotated[str, Meta(min_length=1, max_length=4000)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Moment = Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?Z$")]
Hour = Annotated[str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class Replace(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where `pattern` (RE2, case ignored) matches the client's words, `by` stands."""

    pattern: Annotated[str, Meta(min_length=1, max_length=512)]
    by: Annotated[str, Meta(max_length=4000)]


class Rewrite(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A quiet change of the prompt, one kind an action."""

    prepend_system: Sentence | None = None
    """Before the system prompt; makes one where there is none."""
    append_system: Sentence | None = None
    """After the system prompt."""
    prefix_last_user: Sentence | None = None
    """Before the last thing that the user said."""
    replace: Replace | None = None


class Canary(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A phrase that is this principal's alone, after the sentences that all share."""


class Shadow(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Serve silently from another model or pool; counts are retold as the nominal model's."""

    model: Name | None = None
    pool: Name | None = None


class Slow(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Serve as a busy day does: between these quantiles of its first-token times and token gaps."""

    low: Annotated[float, Meta(ge=0, le=1)] = 0.75
    high: Annotated[float, Meta(ge=0, le=1)] = 0.95


class Cap(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """At most so many output tokens."""

    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Throttle(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Refuse this share of requests with an ordinary 429."""

    percent: Percent
    retry_after_s: Annotated[int, Meta(ge=1, le=120)] = 10


class Deny(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Refuse with an ordinary error."""

    status: Literal[400, 403, 404, 429, 503] = 403
    code: Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,64}$")] = "policy_denied"
    message: Annotated[str, Meta(min_length=1, max_length=300)] = "This request is not allowed."


class Action(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Exactly one of these."""

    rewrite: Rewrite | None = None
    canary: Canary | None = None
    shadow: Shadow | None = None
    slow: Slow | None = None
    flag: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")] | None = None
    """A word in the record of the request; nothing else changes."""
    cap: Cap | None = None
    throttle: Throttle | None = None
    deny: Deny | None = None


class Window(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Hours of the day in UTC, on some days; `to` before `from` goes over midnight."""

    days: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    start: Hour = msgspec.field(name="from")
    end: Hour = msgspec.field(name="to")


class Schedule(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """When a policy has an effect. `until` is its expiry; with windows, only inside of one."""

    start: Moment | None = msgspec.field(name="from", default=None)
    until: Moment | None = None
    windows: Annotated[tuple[Window, ...], Meta(max_length=16)] = ()


class Rollout(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """For this share of principals (of clusters, where they are linked); who is in stays in when it grows."""

    percent: Percent = 100.0


class Spec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    mode: Mode
    covert: bool = False
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0
    """The highest is looked at first; ties go by id."""
    match: Annotated[str, Meta(min_length=1)]
    """CEL over the variables of docs/policies.md."""
    rollout: Rollout = Rollout()
    schedule: Schedule = Schedule()
    actions: Annotated[tuple[Action, ...], Meta(min_length=1, max_length=16)]


class GivenMessage(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    role: str
    content: str


class GivenRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    endpoint: Literal["chat", "completions", "embeddings", "tensors"] | None = None
    model: str = "demo"
    stream: bool = False
    n: int = 1
    max_tokens: int | None = None
    prompt_tokens: int = 0
    messages: tuple[GivenMessage, ...] = ()
    prompt: str | tuple[str, ...] = ()


class GivenPrincipal(PrincipalFacts, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """As in gateway/core/facts.py, and no misspelt name."""


class GivenClient(ClientFacts, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """As in gateway/core/facts.py, and no misspelt name."""


class GivenSignals(SignalFacts, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """As in gateway/core/facts.py, and no misspelt name."""


class GivenSurge(SurgeFacts, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """As in gateway/core/facts.py, and no misspelt name."""


class Given(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Facts of an example; what is not said is what is known of a stranger."""

    principal: GivenPrincipal = GivenPrincipal()
    request: GivenRequest = GivenRequest()
    client: GivenClient = GivenClient()
    signals: GivenSignals = GivenSignals()
    surge: GivenSurge = GivenSurge()
    now: Moment | None = None
    never_contain: bool = False
    containment: bool = True


class Rewritten(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A message of the prompt as it goes out."""

    role: str | None = None
    contains: str | None = None
    equals: str | None = None


class Expect(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an example says must happen; what is not said is not looked at."""

    matched: bool
    rewritten: dict[int, Rewritten] = {}
    """By index of the message, or of the text."""
    denied: bool | None = None
    max_tokens: int | None = None
    shadow: str | None = None
    flags: tuple[str, ...] | None = None


class Example(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    given: Given
    expect: Expect


class Metadata(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    id: Id
    description: Annotated[str, Meta(min_length=1, max_length=1000)]


class PolicyFile(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A whole policy file."""

    api_version: Literal["catflap/v1"] = msgspec.field(name="apiVersion")
    kind: Literal["Policy"]
    metadata: Metadata
    spec: Spec
    examples: Annotated[tuple[Example, ...], Meta(min_length=2, max_length=64)]


def policy_schema() -> dict[str, object]:
    """The JSON Schema of a policy file."""
    return msgspec.json.schema(PolicyFile)
