"""Decision: what policies make of a request. Data only; who acts on it lives elsewhere."""

from typing import Literal

import msgspec

Place = Literal["prepend_system", "append_system", "prefix_last_user", "replace"]
Held = Literal["rollout", "schedule", "never_contain", "switched_off", "after_terminal"]
"""Why a rule whose condition holds has no effect. `after_terminal`: a rule before it has ended the matter."""


class Edit(msgspec.Struct, frozen=True):
    """One change of a prompt: `text` goes to a place, or stands where `pattern` matched."""

    place: Place
    text: str
    pattern: str = ""


class Shadow(msgspec.Struct, frozen=True, omit_defaults=True):
    """Serve from another model or another pool of endpoints, without a word."""

    model: str | None = None
    pool: str | None = None


class Slow(msgspec.Struct, frozen=True):
    """Serve as on a busy day: at a quantile of its first-token times and token gaps between `low` and `high`."""

    low: float
    high: float


class Refusal(msgspec.Struct, frozen=True, omit_defaults=True):
    """An ordinary error: its status, code and sentence. `retry_after_ms`: 0 for none."""

    status: int
    code: str
    message: str
    retry_after_ms: int = 0


class Actions(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What all rules in effect want together. Empty: serve as usual."""

    refusal: Refusal | None = None
    edits: tuple[Edit, ...] = ()
    canary: bool = False
    shadow: Shadow | None = None
    slow: Slow | None = None
    max_tokens: int | None = None
    flags: tuple[str, ...] = ()

    @property
    def contains(self) -> bool:
        """Whether the principal is served otherwise than it is told."""
        return bool(self.edits or self.canary or self.shadow or self.slow)


class Decision(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """`matched`: rules in effect, in their order. `logged`: rules in mode `log` whose condition holds; they changed
    nothing. `held`: rules whose condition holds, kept from having an effect, and by what. `failed`: rules whose
    condition was neither true nor false. `answers`: what was found in the client's words, by predicate id."""

    ruleset: str
    reason: str
    actions: Actions = Actions()
    matched: tuple[str, ...] = ()
    logged: tuple[str, ...] = ()
    held: tuple[tuple[str, Held], ...] = ()
    failed: tuple[str, ...] = ()
    answers: dict[str, bool] = {}
