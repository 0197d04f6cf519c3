"""What admission decided."""

import msgspec

from gateway.core.caller import Caller
from gateway.core.delta import Usage


class LimitState(msgspec.Struct, frozen=True, gc=False):
    """Where one limit stands after a request was admitted or refused; a cost's numbers are in thousandths."""

    name: str
    measure: str
    level: str
    cap: int
    remaining: int
    reset_ms: int
    """Until the limit is whole again, if nothing else is asked; 0 for concurrency, of which nobody can know."""
    window_ms: int = 0
    """0 where nothing slides: concurrency, and a cost's calendar month."""
    model: str | None = None


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """An admitted request: what it holds until it settles."""

    request: str
    caller: Caller
    ceiling: Usage
    """The most that it may use."""
    epoch: int | None
    """Of the organisation's directory entries; None where Redis was away and nobody could say."""
    states: tuple[LimitState, ...]


class Denial(msgspec.Struct, frozen=True, gc=False):
    """A request that a limit refused."""

    limit: LimitState
    retry_after_ms: int
    epoch: int | None
    states: tuple[LimitState, ...]
