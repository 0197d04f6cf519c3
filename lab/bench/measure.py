"""One peer, measured once: whole answers first, then one connection, then many, then streams."""

import asyncio
import json
import resource
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from lab.bench import traffic, triton_answers
from lab.bench.accounting import cpu_seconds, machine_cpu_seconds, peak_memory_mb, tree
from lab.bench.catflap import Counts
from lab.bench.client import Answer, Client
from lab.bench.errors import BenchError
from lab.bench.peers import Running
from lab.bench.processes import START_S
from lab.bench.wrk import WrkReport, drive

MANY, ONE = 32, 1
CHUNKS = 50
FIRST_TOKEN_STREAMS = 40  # one after another, at some 60 ms each
WARM_UP_S = 2.0


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """One load by wrk on one peer."""

    wrk: WrkReport
    cpu_ms: float
    """CPU milliseconds that the peer's own processes used for each answered request."""
    cores: dict[str, float]
    """Cores in use meanwhile, by what used them: `peer`, `mock`, `wrk`, the processes beside the peer, and `other`: all
    that is no part of the benchmark."""


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One peer in one round."""

    start_s: float
    """From the start of its process to its first answer."""
    one: Load
    many: Load
    stream: Load
    first_token_p50_ms: float
    first_token_p99_ms: float
    memory_mb: float
    """Peak resident size, summed over its processes."""
    answered: int
    """Requests that its clients got whole answers to, from start to end."""
    upstream: dict[str, int]
    """The mock's counters at the end."""
    counts: Counts | None = None
    """What Catflap left behind; None for a floor."""


def measure(peer: Running, mock: tuple[int, int], folder: Path, seconds: float) -> Measurement:
    """Measure `peer` for about `2 x seconds` and some; `mock` is the mock Triton's process id and port.

    Raises BenchError if an answer is not what the mock said.
    """
    mock_pid, mock_port = mock
    start_s = _await_first_answer(peer)
    asyncio.run(_check_answers(peer))
    bodies = {stream: _write_body(folder, stream=stream) for stream in (False, True)}
    url = f"http://127.0.0.1:{peer.port}{traffic.PATH}"
    parts = {"mock": mock_pid} | {name: process.pid for name, process in peer.beside.items()}

    def load(connections: int, length: float, *, stream: bool = False) -> Load:
        return _load(url, peer, bodies[stream], parts, connections=connections, seconds=length)

    loads = [
        load(MANY, WARM_UP_S),
        one := load(ONE, seconds / 2),
        many := load(MANY, seconds),
        stream := load(MANY, seconds / 2, stream=True),
    ]
    firsts = asyncio.run(first_tokens(peer))
    answered = sum(int(done.wrk.requests) for done in loads) + len(firsts) + 3  # the first answer, two checked ones
    return Measurement(
        start_s=start_s,
        one=one,
        many=many,
        stream=stream,
        first_token_p50_ms=statistics.median(firsts),
        first_token_p99_ms=percentile(firsts, 99),
        memory_mb=peak_memory_mb(tree(peer.process.pid)),
        answered=answered,
        upstream=asyncio.run(mock_counters(mock_port)),
        counts=peer.catflap.settled_counts(answered) if peer.catflap else None,
    )


async def mock_counters(port: int) -> dict[str, int]:
    """What the mock Triton has seen, once no stream is under way on it any more."""
    async with Client(port) as client:
        while True:
            counters: dict[str, int] = json.loads((await client.get("/counters")).body)
            if not counters["active"]:
                return counters
            await asyncio.sleep(0.01)


async def first_tokens(peer: Running, streams: int = FIRST_TOKEN_STREAMS) -> list[float]:
    """Milliseconds to the first token of streams that run one after another on one connection."""
    body, marker = traffic.chat(stream=True), triton_answers.FIRST_WORD.encode()
    found = []
    async with Client(peer.port, peer.key) as client:
        for _ in range(streams):
            answer = await client.post(traffic.PATH, body, marker)
            if answer.first_s is None:
                raise BenchError("A stream ended without its first token.")
            found.append(answer.first_s * 1000)
    return found


def percentile(values: list[float], percent: int) -> float:
    """The smallest of `values` that at least `percent` percent of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _load(url: str, peer: Running, body: Path, parts: Mapping[str, int], *, connections: int, seconds: float) -> Load:
    groups = {"peer": tree(peer.process.pid)} | {name: tree(pid) for name, pid in parts.items()}

    def used() -> dict[str, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)  # of those that have ended: here, wrk
        seconds_used = {name: cpu_seconds(pids) for name, pids in groups.items()}
        known = seconds_used | {"wrk": children.ru_utime + children.ru_stime}
        return known | {"other": machine_cpu_seconds() - sum(known.values())}

    before, start = used(), time.perf_counter()
    report = drive(url, peer.key, body, connections=connections, seconds=seconds)
    wall = time.perf_counter() - start
    spent = {name: after - before[name] for name, after in used().items()}
    return Load(
        wrk=report,
        cpu_ms=spent["peer"] * 1000 / max(report.requests, 1),
        cores={name: max(0.0, cpu / wall) for name, cpu in spent.items()},
    )


def _await_first_answer(peer: Running) -> float:
    """Seconds from the peer's start to its first 200. Raises BenchError if there is none."""
    body = traffic.chat(stream=False)

    async def ask() -> bool:
        try:
            async with Client(peer.port, peer.key, timeout_s=START_S) as client:
                return (await client.post(traffic.PATH, body)).status == 200
        except OSError:  # not listening yet, or too early to answer
            return False

    while time.perf_counter() - peer.started < START_S and peer.process.poll() is None:
        if asyncio.run(ask()):
            return time.perf_counter() - peer.started
        time.sleep(0.01)
    raise BenchError(f"A peer gave no answer within {START_S:.0f} s of its start.")


async def _check_answers(peer: Running) -> None:
    """A fast gateway that answers something else is worth nothing: compare with what the mock said."""
    async with Client(peer.port, peer.key) as client:
        whole = await client.post(traffic.PATH, traffic.chat(stream=False))
        streamed = await client.post(traffic.PATH, traffic.chat(stream=True))
    _expect(whole, triton_answers.AT_ONCE_TEXT)
    _expect(streamed, "".join(f" word{n}" for n in range(CHUNKS)))


def _expect(answer: Answer, text: str) -> None:
    try:
        right = answer.status == 200 and traffic.text_of(answer.body) == text
    except ValueError:
        right = False
    if not right:
        raise BenchError(f"A peer answered with {answer.status} and other words than the mock's: {answer.body[:300]!r}")


def _write_body(folder: Path, *, stream: bool) -> Path:
    path = folder / ("stream.json" if stream else "whole.json")
    path.write_bytes(traffic.chat(stream=stream))
    return path
