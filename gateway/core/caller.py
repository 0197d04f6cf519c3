"""Who is asking, and what they may."""

import msgspec

from gateway.core.facts import State

SCOPES = ("chat", "completions", "embeddings", "tensors")
"""What a key may be held to, by endpoint. Lists of models and of limits need none."""


class Override(msgspec.Struct, frozen=True):
    """A principal's own limit: in place of its plan's at the level of the principal, or beside the plan's where it has
    none. `limit` counts units of `measure` per `per` (`minute`, `day`, `month`; None: at a time), of `model` alone or
    of all models."""

    measure: str
    limit: int
    per: str | None = None
    model: str | None = None


class Regard(msgspec.Struct, frozen=True):
    """How a principal is regarded. `until_ms`: when `state` ends by itself and is `normal` again; None: never.
    `cluster`: the group of linked principals that it belongs to, empty for none. `never_contain`: no policy may."""

    state: State = "normal"
    score: float = 0.0
    cluster: str = ""
    never_contain: bool = False
    until_ms: int | None = None

    def state_at(self, now_ms: int) -> State:
        """The state at a moment in milliseconds since the epoch."""
        return self.state if self.until_ms is None or now_ms < self.until_ms else "normal"


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """A principal as its credential resolved it: organisation > project > principal > key, all by id."""

    organisation: str
    project: str
    principal: str
    key: str
    """A key's id; of a JSON Web Token `jwt:ISSUER:PRINCIPAL`."""
    plan: str
    scopes: frozenset[str] | None = None
    """The endpoints that it may use, of SCOPES; None: all."""
    models: frozenset[str] | None = None
    """The public names of the models that it may use; None: all of the fleet."""
    tags: tuple[str, ...] = ()
    created_at_ms: int = 0
    """When the principal was made."""
    regard: Regard = Regard()
    overrides: tuple[Override, ...] = ()
