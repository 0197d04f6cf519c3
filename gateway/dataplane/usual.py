"""How long something takes as a rule, so that what is done quicker can take as long."""

from collections import deque
from time import perf_counter

LAST = 99
"""The median is of so many."""
EVERY = 9
"""It is looked for once in so many."""
MOST_S = 0.0005
"""Nothing is waited for longer: the event loop stands still meanwhile."""


class Usual:
    """How long something took lately, by the size of what it was done with (two sizes are alike where they have as many
    binary digits)."""

    def __init__(self) -> None:
        self._heard: dict[int, _Heard] = {}

    def hear(self, size: int, took_s: float) -> None:
        """It took so long with something of this size."""
        heard = self._heard.get(size.bit_length())
        if heard is None:
            heard = self._heard[size.bit_length()] = _Heard()
        heard.add(took_s)

    def of(self, size: int) -> float:
        """The median in seconds, with what is nearest in size to this; 0 where nothing was heard yet."""
        digits = size.bit_length()
        heard = self._heard.get(digits)
        if heard is None:
            if not self._heard:
                return 0.0
            heard = self._heard[min(self._heard, key=lambda other: abs(other - digits))]
        return heard.median

    def wait(self, size: int, began: float) -> None:
        """Until it has taken as long as usual since it `began`, by `perf_counter`; at once where it is late already.
        Too short a time for a timer, so the clock is asked until then."""
        due = began + min(self.of(size), MOST_S)
        while perf_counter() < due:
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
