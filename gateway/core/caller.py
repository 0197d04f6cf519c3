"""Who is asking."""

import msgspec


class Override(msgspec.Struct, frozen=True):
    """A principal's own limit, in the place of its plan's or beside it (gateway/limits/plans.py checks it)."""

    measure: str
    limit: int
    per: str | None = None
    model: str | None = None


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """A principal as its credential resolved it: organisation > project > principal > key, all by id."""

    organisation: str
    project: str
    principal: str
    key: str
    plan: str
    scopes: frozenset[str] | None = None
    """Kinds of endpoints that the credential may use: `chat`, `completions`, `embeddings`, `tensors`; None: all."""
    models: frozenset[str] | None = None
    """Public names of the models that it may use; None: all."""
    tags: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()
