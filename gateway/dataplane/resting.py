"""Decoys that have failed rest for a while: a request that tries one in vain takes longer than its client may see."""

import time
from collections.abc import Callable

from gateway.core.decision import Decision, Shadow

REST_S = 30.0
PATIENCE_S = 2.0
"""How long a decoy has for its first token before the model itself answers."""


def name_of(shadow: Shadow | None) -> str:
    """What a decoy is called in records; empty for none."""
    if shadow is None:
        return ""
    return shadow.model if shadow.model is not None else f"pool:{shadow.pool}"


class Resting:
    """One process's."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, patience_s: float = PATIENCE_S) -> None:
        self.patience_s = patience_s
        self._monotonic = monotonic
        self._until: dict[str, float] = {}

    def rests(self, shadow: Shadow) -> bool:
        """Whether it has failed a moment ago."""
        return self._until.get(name_of(shadow), 0.0) > self._monotonic()

    def rest(self, decision: Decision | None) -> None:
        """The decoy that this decision names has failed. There are no more of them than policies name."""
        if decision is not None:
            self._until[name_of(decision.actions.shadow)] = self._monotonic() + REST_S
