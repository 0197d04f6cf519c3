"""The rules of a rate limit, as a model in plain Python: the oracle that the Lua scripts are tested against.

A limit of L in W milliseconds admits at most L in *any* W. Time is cut into sub-buckets; those that a window of W
ending now can touch are counted, the oldest whole. A request's units belong to the bucket of its reservation and are
corrected there when it settles.
"""

from dataclasses import dataclass, field


@dataclass
class Clock:
    """A partition's time: the wall clock, shifted so that it never goes back and yet goes on when the wall steps back.

    A clamp alone (`max`) would stand still for as long as the wall clock had stepped back, and with it every window.
    What it has seen is written down every `written_every_ms`: so much of a step back goes unseen.
    """

    wall: int = 0
    offset: int = 0
    written_every_ms: int = 0

    def now(self, wall_ms: int) -> int:
        """The partition's time in milliseconds when the wall clock says `wall_ms`."""
        if wall_ms < self.wall:
            self.offset += self.wall - wall_ms
        if wall_ms < self.wall or wall_ms - self.wall >= self.written_every_ms:
            self.wall = wall_ms
        return wall_ms + self.offset


@dataclass
class Window:
    """One sliding window: at most `cap` units in any `window_ms`."""

    cap: int
    window_ms: int
    bucket_ms: int
    buckets: dict[int, int] = field(default_factory=dict)
    head: int = 0
    opened: dict[int, int] = field(default_factory=dict)
    """Of each bucket, the units that have not settled."""

    @property
    def span(self) -> int:
        """Buckets before the current one that still count."""
        return self.window_ms // self.bucket_ms

    def slide(self, now: int) -> int:
        """Forget what no longer counts; the current bucket."""
        current = max(self.head, now // self.bucket_ms)
        self.buckets = {b: units for b, units in self.buckets.items() if b >= current - self.span}
        self.opened = {b: units for b, units in self.opened.items() if b in self.buckets}
        return current

    def used(self) -> int:
        """Units that count now."""
        return sum(self.buckets.values())

    def fits(self, now: int, cost: int) -> bool:
        """Whether `cost` more units may be taken."""
        self.slide(now)
        return self.used() + cost <= self.cap

    def take(self, now: int, cost: int) -> int:
        """Take them; the bucket that they belong to."""
        bucket = self.head = self.slide(now)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + cost
        self.opened[bucket] = self.opened.get(bucket, 0) + cost
        return bucket

    def close(self, bucket: int, cost: int) -> None:
        """What was reserved there is open no more."""
        if bucket in self.opened:
            self.opened[bucket] -= cost

    def open(self) -> int:
        """Units that have not settled, and may come back at any time."""
        return sum(self.opened.values())

    def correct(self, bucket: int, delta: int) -> None:
        """A request settled: its bucket, if it still counts, changes by `delta`."""
        if bucket in self.buckets:
            self.buckets[bucket] += delta

    def retry_after(self, now: int, cost: int) -> int:
        """Milliseconds until `cost` units fit, if nothing else happens; 0 if they fit now."""
        self.slide(now)
        missing = self.used() + cost - self.cap
        for bucket in sorted(self.buckets):
            if missing <= 0:
                break
            missing -= self.buckets[bucket]
            if missing <= 0:
                return (bucket + self.span + 1) * self.bucket_ms - now
        return 0
