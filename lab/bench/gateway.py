"""`catflap lab bench gateway`: Catflap between its floors, one interleaved run."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from lab.bench import proof, report
from lab.bench.errors import BenchError
from lab.bench.measure import Measurement, measure
from lab.bench.peers import CATFLAP, PEERS, PLAIN_FLOOR, REDIS_FLOOR
from lab.bench.processes import mock_triton, terminable
from lab.bench.report import Verdict, verdict
from lab.bench.wrk import find_wrk


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run. `verdict` is None when not all three peers were measured."""

    rounds: dict[str, list[Measurement]]
    verdict: Verdict | None

    @property
    def within_budget(self) -> bool:
        return self.verdict is not None and self.verdict.within_budget

    def json(self) -> str:
        """All measurements of all rounds, and the verdict."""
        return msgspec.json.format(msgspec.json.encode(self)).decode()

    def markdown(self) -> str:
        """The tables, the proof, the verdict, and whether the machine was quiet."""
        parts = [build(self.rounds) for build in (report.table, report.ratio_table, report.cores_table)]
        proofs = [f"- {proof.summary(measured)}" for measured in self.rounds.get(CATFLAP, [])]
        if proofs:
            parts.append("\n".join(["Everything was on, round by round:", "", *proofs]))
        if self.verdict is not None:
            parts.append(_sentences(self.verdict))
        parts.append(report.disturbance(self.rounds))
        return "\n\n".join(part for part in parts if part)


def run(
    *, rounds: int, seconds: float, peers: Sequence[str] = (), say: Callable[[str], None] = lambda line: None
) -> Result:
    """Measure each peer (default: all) in each round, one after the other, each started afresh.

    `seconds` is the length of the main load, a round of one peer takes about `2 x seconds + 8`. `say` gets a line after
    each measurement. Raises BenchError, with every process stopped, if any part of it does not work.
    """
    find_wrk()
    chosen = list(peers or PEERS)
    if unknown := sorted(set(chosen) - set(PEERS)):
        raise BenchError(f"There is no peer {unknown[0]!r}; choose from {', '.join(PEERS)}.")
    measured: dict[str, list[Measurement]] = {name: [] for name in chosen}
    with terminable():
        for number in range(1, rounds + 1):
            for name in chosen:
                one = _measure(name, seconds)
                measured[name].append(one)
                say(_progress(number, name, one))
    whole = {PLAIN_FLOOR, REDIS_FLOOR, CATFLAP} <= set(chosen)
    return Result(rounds=measured, verdict=verdict(measured) if whole else None)


def _measure(name: str, seconds: float) -> Measurement:
    """One peer before a mock Triton of its own, in a folder of its own; nothing of either is left."""
    with tempfile.TemporaryDirectory(prefix="catflap-bench-") as created:
        folder = Path(created)
        with mock_triton(folder) as (mock, port), PEERS[name](folder, port) as peer:
            return measure(peer, (mock.pid, port), folder, seconds)


def _progress(number: int, name: str, one: Measurement) -> str:
    cores = ", ".join(f"{part} {used:.2f}" for part, used in one.many.cores.items())
    return (
        f"round {number}, {name}: {one.many.wrk.per_second:.0f} requests/s, {one.many.cpu_ms:.3f} ms CPU each, "
        f"{one.stream.cpu_ms:.2f} ms a stream; cores: {cores}. {proof.summary(one)}"
    )


def _sentences(found: Verdict) -> str:
    lines = [
        f"Throughput at 32 connections: {found.throughput} of the redis floor (budget: at least "
        f"{report.THROUGHPUT_BUDGET}).",
        f"CPU of a 50-chunk stream: {found.stream_cpu} of the plain floor (budget: at most "
        f"{report.STREAM_CPU_BUDGET}).",
        "Within budget." if found.within_budget else "Out of budget:",
        *(f"- {problem}" for problem in found.problems),
    ]
    return "\n".join(lines)
