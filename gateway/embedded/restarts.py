"""When a program that ended is started again, and what is said of it. Pure: times come in, waits and lines come out.

The policy: a program that has worked once is never given up. Another may hold its port, its disk may be full, its model
may be half-way through an edit, and all of these end without us. The waits double from half a second to thirty; after
five failures in five minutes that is said, once, and the longest wait is kept. One reason is said once, not at each
try.
"""

import re
from collections import deque

BACKOFF_FIRST_S = 0.5
BACKOFF_MOST_S = 30.0
HEALTHY_S = 60.0
LOOP_FAILURES = 5
LOOP_WINDOW_S = 300.0
VARYING = re.compile(r"0x[0-9a-f]+|\d+")


class Backoff:
    """How long to wait before the next start: 0.5 s, doubling to 30 s, from the beginning after a healthy minute."""

    def __init__(self) -> None:
        self._next_s = BACKOFF_FIRST_S

    def after(self, lived_s: float) -> float:
        """The wait in seconds after a life of `lived_s` seconds (0 for a start that failed)."""
        if lived_s >= HEALTHY_S:
            self._next_s = BACKOFF_FIRST_S
        wait, self._next_s = self._next_s, min(2 * self._next_s, BACKOFF_MOST_S)
        return wait


class Restarts:
    """One program's failures."""

    def __init__(self, name: str, log: str) -> None:
        self._name = name
        self._log = log
        self._backoff = Backoff()
        self._failures: deque[float] = deque(maxlen=LOOP_FAILURES)
        self._looping = False
        self._said: str | None = None

    def ended(self, now: float, reason: str, lived_s: float) -> tuple[float, list[str]]:
        """It worked for `lived_s` seconds and does not any more: the wait before the next start, and what to say."""
        if lived_s >= HEALTHY_S:
            self._failures.clear()
            self._looping = False
        self._said = None
        wait, lines = self._failed(now, lived_s)
        return wait, [f"{self._name}: {reason}; starting it again in {wait:g} s", *lines]

    def did_not_start(self, now: float, sentence: str) -> tuple[float, list[str]]:
        """A start failed, and `sentence` says why: as above."""
        wait, lines = self._failed(now, 0)
        shape = VARYING.sub("#", sentence)  # process ids, times and addresses make no new reason
        if shape != self._said:
            self._said = shape
            lines.insert(0, f"{self._name}: still down, tried again until it works: {sentence}")
        return wait, lines

    def works(self, after_s: float) -> str:
        """What to say once it works again, so long after it failed."""
        self._said = None
        return f"{self._name}: works again after {after_s:.1f} s"

    def _failed(self, now: float, lived_s: float) -> tuple[float, list[str]]:
        self._failures.append(now)
        wait = self._backoff.after(lived_s)
        if self._looping:
            return BACKOFF_MOST_S, []
        if len(self._failures) < LOOP_FAILURES or now - self._failures[0] > LOOP_WINDOW_S:
            return wait, []
        self._looping = True
        return BACKOFF_MOST_S, [
            f"{self._name}: has failed {LOOP_FAILURES} times within {LOOP_WINDOW_S / 60:g} minutes; from now on it is "
            f"tried every {BACKOFF_MOST_S:g} s until it works (its log: {self._log})"
        ]
