"""Which canaries were used since it was last written down."""

from collections import OrderedDict
from collections.abc import Iterable

from gateway.storage.canaries import Given

MOST = 20_000
"""Canaries that are remembered; those used longest ago are forgotten first."""
HOUR_MS = 3_600_000
SWEEP_MS = 60_000

Canary = tuple[str, tuple[str, ...]]
"""A principal and its words."""


class _Use:
    """First and last use; `written_ms`: when that was last written, and `written` the last use that it told of."""

    __slots__ = ("first", "last", "written", "written_ms")

    def __init__(self, at_ms: int) -> None:
        self.first = self.last = at_ms
        self.written = -1
        self.written_ms = 0


class Uses:
    """Bounded. The database is asked at most once an hour for each canary: first uses at once, later ones by the
    hour."""

    def __init__(self) -> None:
        self._uses: OrderedDict[Canary, _Use] = OrderedDict()
        self._fresh: dict[Canary, None] = {}
        self._swept_ms = 0

    def note(self, principal: str, words: tuple[str, ...], at_ms: int) -> bool:
        """A use. True when it is the first that is known of: it is to be written soon."""
        canary = (principal, words)
        use = self._uses.get(canary)
        if use is not None:
            self._uses.move_to_end(canary)
            use.first, use.last = min(use.first, at_ms), max(use.last, at_ms)
            return False
        self._uses[canary] = _Use(at_ms)
        self._fresh[canary] = None
        if len(self._uses) > MOST:
            forgotten, _ = self._uses.popitem(last=False)
            self._fresh.pop(forgotten, None)
        return True

    def due(self, now_ms: int, most: int) -> list[Given]:
        """Up to `most` that are to be written now."""
        if now_ms - self._swept_ms >= SWEEP_MS:
            self._swept_ms = now_ms
            hour_ago = now_ms - HOUR_MS
            self._fresh |= {canary: None for canary in self._unwritten() if self._uses[canary].written_ms <= hour_ago}
        return self._given(list(self._fresh)[:most])

    def unwritten(self) -> list[Given]:
        """All that the database does not know, however young."""
        return self._given(self._unwritten())

    def written(self, uses: Iterable[Given], now_ms: int) -> None:
        """These are in the database."""
        for given in uses:
            canary = (given.principal, given.words)
            self._fresh.pop(canary, None)
            if (use := self._uses.get(canary)) is not None:
                use.written, use.written_ms = given.last_at_ms, now_ms

    def _unwritten(self) -> list[Canary]:
        return [canary for canary, use in self._uses.items() if use.last > use.written]

    def _given(self, canaries: Iterable[Canary]) -> list[Given]:
        return [Given(*canary, self._uses[canary].first, self._uses[canary].last) for canary in canaries]
