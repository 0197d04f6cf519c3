"""What admission decided."""

import msgspec

from gateway.core.caller import Caller


class LimitState(msgspec.Struct, frozen=True):
    """Where one limit stands after a request was admitted or refused."""

    name: str
    measure: str
    cap: int
    remaining: int
    reset_ms: int
    """Until the limit is whole again, if nothing else is asked."""


class Reservation(msgspec.Struct, frozen=True):
    """An admitted request: what it holds until it settles."""

    request: str
    caller: Caller
    tokens: int
    epoch: int
    states: tuple[LimitState, ...]


class Denial(msgspec.Struct, frozen=True):
    """A request that a limit refused."""

    limit: LimitState
    retry_after_ms: int
    epoch: int
    states: tuple[LimitState, ...]
