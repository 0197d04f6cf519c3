"""From measurements to medians, ratios, a table and the verdict. Pure.

A ratio is formed within each round, between neighbours in time, and the median is taken over those: the machine's
drift, which is larger than most differences, then falls out of it.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence

import msgspec

from lab.bench.measure import Load, Measurement
from lab.bench.peers import CATFLAP, PLAIN_FLOOR, REDIS_FLOOR
from lab.bench.proof import shortcomings

THROUGHPUT_BUDGET = 1.0
"""At least so many times the redis floor's requests a second at 32 connections."""
STREAM_CPU_BUDGET = 1.1
"""At most so many times the plain floor's CPU for a stream of 50 chunks."""

DISTURBED_CORES = 0.2
"""Work of others on the machine, in cores, from which on a load is said to have been disturbed."""

Rounds = Mapping[str, Sequence[Measurement]]
"""Peer -> its measurement in each round."""
Value = Callable[[Measurement], float]


class Column(msgspec.Struct, frozen=True):
    title: str
    decimals: int
    value: Value


class Ratio(msgspec.Struct, frozen=True):
    """The median over the rounds, and the least and the greatest of them."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} to {self.greatest:.2f})"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether Catflap keeps its budget in this run; `problems` says in sentences why not."""

    throughput: Ratio
    stream_cpu: Ratio
    problems: tuple[str, ...]

    @property
    def within_budget(self) -> bool:
        return not self.problems


def _loads(m: Measurement) -> tuple[Load, ...]:
    return m.one, m.many, m.stream


def _throughput(m: Measurement) -> float:
    return m.many.wrk.per_second


def _stream_cpu(m: Measurement) -> float:
    return m.stream.cpu_ms


COLUMNS = (
    Column("requests/s, 32 conn.", 0, _throughput),
    Column("p50 ms", 2, lambda m: m.many.wrk.p50_ms),
    Column("p99 ms", 2, lambda m: m.many.wrk.p99_ms),
    Column("CPU ms / request", 3, lambda m: m.many.cpu_ms),
    Column("p50 ms, 1 conn.", 3, lambda m: m.one.wrk.p50_ms),
    Column("CPU ms / stream", 2, _stream_cpu),
    Column("streams/s", 0, lambda m: m.stream.wrk.per_second),
    Column("first token p50 ms", 2, lambda m: m.first_token_p50_ms),
    Column("first token p99 ms", 2, lambda m: m.first_token_p99_ms),
    Column("peak MiB", 0, lambda m: m.memory_mb),
    Column("start s", 2, lambda m: m.start_s),
)

RATIOS: tuple[tuple[str, Value], ...] = (
    ("requests/s", _throughput),
    ("request CPU", lambda m: m.many.cpu_ms),
    ("stream CPU", _stream_cpu),
)


def table(rounds: Rounds) -> str:
    """A Markdown table of medians over the rounds, one line a peer."""
    lines = _head(["peer", *(column.title for column in COLUMNS)])
    for peer, measured in rounds.items():
        if measured:
            cells = [f"{median(measured, column.value):.{column.decimals}f}" for column in COLUMNS]
            lines.append(_line([peer, *cells]))
    return "\n".join(lines)


def ratio_table(rounds: Rounds) -> str:
    """A Markdown table of each peer's ratios to the floors that were measured."""
    floors = [floor for floor in (REDIS_FLOOR, PLAIN_FLOOR) if rounds.get(floor)]
    columns = [(title, value, floor) for title, value in RATIOS for floor in floors]
    lines = _head(["ratio", *(f"{title} : {floor}" for title, _, floor in columns)])
    for peer, measured in rounds.items():
        if measured:
            cells = [f"{ratio(measured, rounds[floor], value).median:.2f}" for _, value, floor in columns]
            lines.append(_line([peer, *cells]))
    return "\n".join(lines)


def cores_table(rounds: Rounds) -> str:
    """Where the CPU went at 32 connections, in cores: says whether the machine, not the peer, was the limit."""
    parts = sorted({part for measured in rounds.values() for m in measured for part in m.many.cores})
    lines = _head(["cores in use, 32 conn.", *parts])
    for peer, measured in rounds.items():
        cells = [
            f"{statistics.median(m.many.cores[part] for m in measured):.2f}" if part in measured[0].many.cores else ""
            for part in parts
            if measured
        ]
        lines.append(_line([peer, *cells]))
    return "\n".join(lines)


def disturbance(rounds: Rounds) -> str:
    """A sentence if something else kept the machine busy during a load; empty if nothing did."""
    others = [load.cores.get("other", 0.0) for measured in rounds.values() for m in measured for load in _loads(m)]
    worst = max(others, default=0.0)
    if worst < DISTURBED_CORES:
        return ""
    share = sum(other >= DISTURBED_CORES for other in others)
    return (
        f"Disturbed: other work used up to {worst:.1f} cores, during {share} of {len(others)} loads. "
        "Read the ratios of CPU, not those of throughput, or run it again on a quiet machine."
    )


def verdict(rounds: Rounds) -> Verdict:
    """Catflap against its budget. Raises KeyError if a floor or Catflap was not measured."""
    gateway = rounds[CATFLAP]
    throughput = ratio(gateway, rounds[REDIS_FLOOR], _throughput)
    stream_cpu = ratio(gateway, rounds[PLAIN_FLOOR], _stream_cpu)
    problems = []
    if throughput.median < THROUGHPUT_BUDGET:
        problems.append(
            f"Throughput is {throughput} of the {REDIS_FLOOR}'s; the budget is at least {THROUGHPUT_BUDGET}."
        )
    if stream_cpu.median > STREAM_CPU_BUDGET:
        problems.append(
            f"A stream's CPU is {stream_cpu} of the {PLAIN_FLOOR}'s; the budget is at most {STREAM_CPU_BUDGET}."
        )
    for measured in gateway:
        problems += shortcomings(measured)
    problems += [
        f"{failures} requests of the {peer} failed."
        for peer, measured in rounds.items()
        if (failures := sum(load.wrk.failures for m in measured for load in _loads(m)))
    ]
    return Verdict(throughput=throughput, stream_cpu=stream_cpu, problems=tuple(problems))


def median(measured: Sequence[Measurement], value: Value) -> float:
    return statistics.median(value(m) for m in measured)


def ratio(measured: Sequence[Measurement], floor: Sequence[Measurement], value: Value) -> Ratio:
    """Round by round. Rounds that one of the two did not finish are left out; a floor of 0 gives infinity."""
    ratios = [
        value(mine) / value(other) if value(other) else float("inf")
        for mine, other in zip(measured, floor, strict=False)
    ]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), _line(["---", *["---:"] * (len(titles) - 1)])]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
