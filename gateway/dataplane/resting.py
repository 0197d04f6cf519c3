"""Decoys that have failed rest for a while: a request that tries one in vain takes longer than its client may see."""

import time
from collections.abc import Callable

from gateway.core.decision import Shadow

REST_S = 30.0
PATIENCE_S = 2.0
"""How long a decoy has for its first token before the model itself answers."""


def name_of(shadow: Shadow) -> str:
    """What a decoy is called in records."""
    return shadow.model if shadow.model is not None else f"pool:{shadow.pool}"


class Resting:
    """One process's."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, patience_s: float = PATIENCE_S) -> None:
        self.patience_s = patience_s
        self._monotonic = monotonic
        self._until: dict[str, float] = {}

    def rests(self, decoy: str) -> bool:
        """Whether the decoy of this name has failed a moment ago."""
        return self._until.get(decoy, 0.0) > self._monotonic()

    def rest(self, decoy: str) -> None:
        """It has failed. There are no more of them than policies name."""
        self._until[decoy] = self._monotonic() + REST_S
