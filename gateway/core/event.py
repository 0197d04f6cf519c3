"""RequestEvent: the one record that every admitted request leaves.

Readers (ledger today; detector, live tail and simulation later) see nothing else of a request, so whatever they need
stands here. Never text: neither prompts nor completions nor secrets.
"""

from typing import Literal

import msgspec

from gateway.core.record import Record

VERSION = 1
"""What is added with a default keeps the version; what an old reader would misunderstand raises it."""

Outcome = Literal["completed", "cancelled", "failed", "timeout", "refused", "reclaimed"]
"""How an admitted request ended. `cancelled`: the client left. `failed`, `timeout`: the upstream did.
`refused`: turned away after admission. `reclaimed`: its gateway died; charged as it last reported."""


class RequestEvent(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """Version 1. Times in milliseconds since the epoch, durations in milliseconds, counts in tokens."""

    v: int = VERSION
    request: str
    organisation: str
    project: str
    principal: str
    key: str
    plan: str
    endpoint: str
    model: str
    stream: bool = False
    at_ms: int
    """When the request arrived, by the gateway's clock."""
    outcome: Outcome
    status: int
    """The HTTP status told to the client; 499 when the client had left before there was one to tell."""
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Part of `prompt_tokens` that the backend found in its prefix cache, where it says so."""
    cost: int = 0
    """In thousandths of a cost unit, `kv_cost` included."""
    kv_cost: int = 0
    """The part of `cost` that was charged for KV cache held (bytes x seconds)."""
    reserved_tokens: int = 0
    """What admission reserved: the upper bound that the counts above may not pass."""
    choices: int = 1
    ttft_ms: int | None = None
    duration_ms: int = 0
    upstream: str | None = None
    """Name of the endpoint that served it."""
    region: str | None = None
    """Region of that endpoint."""
    attempts: int = 1
    end_user: str | None = None
    """Keyed digest of the client's own `user` field."""
    beyond_prompt_tokens: int = 0
    """What a contained request used beyond what its client was told, and was charged: the defence account's."""
    beyond_cached_tokens: int = 0
    """Part of `beyond_prompt_tokens`, as `cached_tokens` is of `prompt_tokens`."""
    beyond_completion_tokens: int = 0
    beyond_cost: int = 0
    """In thousandths of a cost unit: what it cost more than `cost`; 0 where a decoy was cheaper."""
    contained: bool = False
    """Served otherwise than it was told."""
    shadow: str | None = None
    """Public name of the model that served in place of `model`, or `pool:NAME` of the pool that did."""
    canary_said: bool = False
    """The principal's own phrase was in the answer."""
    matched: tuple[str, ...] = ()
    """Ids of the policies that took effect, in their order."""
    logged: tuple[str, ...] = ()
    """Ids of policies in mode `log` whose condition held."""
    flags: tuple[str, ...] = ()
    """What policies flagged."""
    record: Record | None = None
    """What was decided on; None where nothing was (the gateway died before, or refused the request)."""


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(RequestEvent).decode


def event_schema() -> dict[str, object]:
    """The JSON Schema of an event of this version; published as docs/request-event.schema.json."""
    schema = msgspec.json.schema(RequestEvent)
    schema["$defs"]["RequestEvent"]["properties"]["v"] = {"const": VERSION, "default": VERSION}
    return schema
