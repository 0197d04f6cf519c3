"""What `bench quota` measured, and its tables. Pure."""

import statistics
from collections.abc import Callable, Sequence

import msgspec


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Admissions, or settlements, one after the other; microseconds for each."""

    median_us: float
    """From the call to the reply, all of ours and the operating system's included."""
    p99_us: float
    redis_us: float
    """Redis's own account of its time in the script."""
    scripts: float
    """Scripts that Redis ran for each."""
    round_trips: float
    """Reads from its clients that Redis counted for each."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One plan beside so many keys."""

    limits: int
    keys: int
    admit: Step
    settle: Step
    together_us: float
    """A whole request (admission and settlement) when 64 are under way."""

    def line(self) -> str:
        """For the progress of a run."""
        return f"{self.limits} limits, {self.keys} keys: {self.admit.redis_us:.0f} + {self.settle.redis_us:.0f} us"


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of Redis that a principal (with one key, alone in its project and organisation) weighs."""

    limits: int
    quiet_bytes: int
    """Has asked once."""
    busy_bytes: int
    """Has asked in every second of its minute and every quarter of an hour of its day."""
    in_flight_bytes: int
    """More, for each of its requests under way."""


Value = Callable[[Cell], float]
COLUMNS: tuple[tuple[str, Value, int], ...] = (
    ("admit, us in Redis", lambda cell: cell.admit.redis_us, 1),
    ("settle, us in Redis", lambda cell: cell.settle.redis_us, 1),
    ("admit, us median", lambda cell: cell.admit.median_us, 0),
    ("admit, us p99", lambda cell: cell.admit.p99_us, 0),
    ("settle, us median", lambda cell: cell.settle.median_us, 0),
    ("settle, us p99", lambda cell: cell.settle.p99_us, 0),
    ("both, us each, 64 at once", lambda cell: cell.together_us, 0),
    ("round trips", lambda cell: cell.admit.round_trips + cell.settle.round_trips, 3),
)
FLAT: tuple[tuple[str, Value], ...] = (
    ("admit in Redis", lambda cell: cell.admit.redis_us),
    ("settle in Redis", lambda cell: cell.settle.redis_us),
    ("both, 64 at once", lambda cell: cell.together_us),
)


def markdown(rounds: Sequence[Sequence[Cell]], memory: Sequence[Memory]) -> str:
    """Three tables: the cells, the most keys against the fewest, the memory."""
    tables = [_costs(rounds), _flatness(rounds), _memory(memory)]
    return "\n\n".join(table for table in tables if table)


def _costs(rounds: Sequence[Sequence[Cell]]) -> str:
    lines = _head(["limits", "keys", *(title for title, _, _ in COLUMNS)])
    for cells in zip(*rounds, strict=True):
        values = [f"{statistics.median(map(value, cells)):.{decimals}f}" for _, value, decimals in COLUMNS]
        lines.append(_line([str(cells[0].limits), f"{cells[0].keys:,}", *values]))
    return "\n".join(lines)


def _flatness(rounds: Sequence[Sequence[Cell]]) -> str:
    """The median over the rounds of the ratio within a round, and the least and the greatest."""
    sizes = sorted({cell.keys for cell in rounds[0]})
    if len(sizes) < 2:
        return ""
    lines = _head([f"{sizes[-1]:,} keys : {sizes[0]:,}", *(title for title, _ in FLAT)])
    for limits in dict.fromkeys(cell.limits for cell in rounds[0]):
        cells = []
        for _, value in FLAT:
            ratios = [_of(one, limits, sizes[-1], value) / _of(one, limits, sizes[0], value) for one in rounds]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        lines.append(_line([f"{limits} limits", *cells]))
    return "\n".join(lines)


def _memory(memory: Sequence[Memory]) -> str:
    lines = _head(["limits", "bytes a principal that has asked once", "at most", "a request in flight"])
    lines += [
        _line([str(one.limits), str(one.quiet_bytes), str(one.busy_bytes), str(one.in_flight_bytes)]) for one in memory
    ]
    return "\n".join(lines)


def _of(cells: Sequence[Cell], limits: int, keys: int, value: Value) -> float:
    return next(value(cell) for cell in cells if (cell.limits, cell.keys) == (limits, keys))


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), _line(["---:"] * len(titles))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
