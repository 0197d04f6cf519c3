"""How long something takes as a rule, so that what is done quicker can take as long."""

from collections import deque
from time import perf_counter

Kind = tuple[int, str]
"""What is alike: binary digits of a text's length, and the endpoint. Nothing that a policy could hang on is in it."""

LAST = 99
"""The median is of so many."""
EVERY = 9
"""It is looked for once in so many."""
MOST_S = 0.0005
"""Nothing is waited for longer: the event loop stands still meanwhile."""


class Usual:
    """How long something took lately, by the kind of what it was done with."""

    def __init__(self) -> None:
        self._heard: dict[Kind, _Heard] = {}

    def hear(self, kind: Kind, took_s: float) -> None:
        """It took so long with something of this kind."""
        heard = self._heard.get(kind)
        if heard is None:
            heard = self._heard[kind] = _Heard()
        heard.add(took_s)

    def of(self, kind: Kind) -> float | None:
        """The median in seconds; None where nothing of this kind was heard, or it is too long to wait for."""
        heard = self._heard.get(kind)
        return heard.median if heard is not None and heard.median <= MOST_S else None


def wait_until(moment: float) -> None:
    """By `perf_counter`; at once where it is past. Too short a time for a timer, so the clock is asked until then."""
    while perf_counter() < moment:
        pass


class _Heard:
    """The last times, and their median as it was lately."""

    def __init__(self) -> None:
        self.median = 0.0
        self._times: deque[float] = deque(maxlen=LAST)
        self._fresh = 0

    def add(self, took_s: float) -> None:
        self._times.append(took_s)
        self._fresh += 1
        if self._fresh == EVERY or len(self._times) < EVERY:
            self._fresh = 0
            self.median = sorted(self._times)[len(self._times) // 2]
