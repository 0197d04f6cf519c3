"""`catflap lab bench transports`: both roads to one real Triton, in one interleaved run.

The gateway's own road (router, transport, adapter) runs in this process, whose processor time, threads of gRPC
included, is what a chunk costs; what is above the router is the same on both roads and left out. The model `paced`
says itself when it stopped working.
"""

import asyncio
import json
import socket
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import uvloop

from gateway.embedded.problem import StartError
from gateway.embedded.supervisor import Supervisor
from gateway.embedded.triton import triton_service
from gateway.fleet.file import Fleet
from gateway.fleet.transports.client import Timeouts
from lab.bench.errors import BenchError
from lab.bench.measure import percentile
from lab.paced import ROADS, Served, by, order, paced_fleet, rest, told

STREAMS, CHUNKS, TOKEN_MS = 32, 50, 20
SHORT = 200
FIRSTS = 100
CANCELLED = 5
PREFILL_MS, LEAVES_AFTER_S = 1000, 0.3
PADDING, PADDED = 64 << 10, 1000
PORTS = ("CATFLAP_TRITON_PORT", "CATFLAP_TRITON_GRPC_PORT", "CATFLAP_TRITON_METRICS_PORT")

Say = Callable[[str], None]


class Figures(msgspec.Struct, kw_only=True):
    """One road in one round."""

    chunk_us: float
    """Processor microseconds a chunk, streams of 50 chunks, 32 at a time."""
    request_us: float
    """Processor microseconds a request with a single chunk, 32 at a time."""
    first_p50_ms: float
    first_p99_ms: float
    """From the request to its first token, one after another, on a model without prefill."""
    prefill_stop_ms: float
    """The longest time from leaving in a prefill to the model's stop."""
    decode_tokens: int
    """The most tokens that were made after the last one read, when the reader left in decode."""
    unread_mb: float
    """Memory that this process gained while 62 MiB of an answer waited for a reader."""


class Result(msgspec.Struct):
    """All rounds by road."""

    rounds: dict[str, list[Figures]]

    def json(self) -> str:
        """The rounds."""
        return msgspec.json.format(msgspec.json.encode(self)).decode()

    def markdown(self) -> str:
        """The medians, a row a figure."""
        lines = ["| median of rounds | " + " | ".join(self.rounds) + " |", "|---|" + "---|" * len(self.rounds)]
        for name in Figures.__struct_fields__:
            told = [statistics.median(getattr(one, name) for one in figures) for figures in self.rounds.values()]
            lines.append(f"| {name} | " + " | ".join(f"{value:.4g}" for value in told) + " |")
        return "\n".join(lines)


def run(*, rounds: int, say: Say) -> Result:
    """Measure. Raises BenchError when there is no Triton to measure on."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            return uvloop.run(_run(Path(folder), rounds, say))
    except StartError as problem:
        raise BenchError(str(problem)) from problem


async def _run(folder: Path, rounds: int, say: Say) -> Result:
    fleet = paced_fleet(_free_ports())
    triton = Supervisor(triton_service(fleet, fleet.endpoints[0], folder), say)
    result = Result({road: [] for road in ROADS})
    try:
        await triton.start()
        for number in range(rounds):
            for road in ROADS if number % 2 == 0 else ROADS[::-1]:
                async with _served(by(road, fleet)) as served:
                    figures = await _measure(served, fleet)
                result.rounds[road].append(figures)
                say(f"round {number + 1}, {road}: {json.dumps(msgspec.to_builtins(figures))}")
    finally:
        await triton.stop()
    return result


@asynccontextmanager
async def _served(fleet: Fleet) -> AsyncIterator[Served]:
    served = Served(fleet, Timeouts(2, 30, 30))
    watch = asyncio.create_task(served.health.watch())
    try:
        while not served.ready():  # noqa: ASYNC110 - health tells nobody
            await asyncio.sleep(0.05)
        await _cpu_us(served, order(token_ms=5), 20, STREAMS)  # all connections are up
        yield served
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await served.router.close()


async def _measure(served: Served, fleet: Fleet) -> Figures:
    memory = await _unread(served, fleet)
    firsts = await _firsts(served)
    chunks = await _cpu_us(served, order(token_ms=TOKEN_MS), CHUNKS, STREAMS * 2) / CHUNKS
    return Figures(
        chunk_us=chunks,
        request_us=await _cpu_us(served, order(), 1, SHORT),
        first_p50_ms=statistics.median(firsts),
        first_p99_ms=percentile(firsts, 99),
        prefill_stop_ms=max([await _prefill_stop_ms(served, fleet) for _ in range(CANCELLED)]),
        decode_tokens=max([await _decode_tokens(served, fleet) for _ in range(CANCELLED)]),
        unread_mb=memory,
    )


async def _cpu_us(served: Served, prompt: str, tokens: int, requests: int) -> float:
    """Processor microseconds a request, `STREAMS` of them at a time."""
    left = iter(range(requests))

    async def some() -> None:
        for _ in left:
            if len(await served.answer(prompt, tokens)) != tokens:
                raise BenchError("An answer is not whole.")

    before = time.process_time()
    await asyncio.gather(*(some() for _ in range(STREAMS)))
    return (time.process_time() - before) * 1e6 / requests


async def _firsts(served: Served) -> list[float]:
    found = []
    for _ in range(FIRSTS):
        began = time.perf_counter()
        choice = await served.open(order(), 2)
        found.append((time.perf_counter() - began) * 1000)
        await rest(choice)
        choice.close()
    return found


async def _prefill_stop_ms(served: Served, fleet: Fleet) -> float:
    await _until_running(fleet, 0)
    asked = asyncio.create_task(served.open(order(prefill_ms=PREFILL_MS, token_ms=20), 100))
    await _until_running(fleet, 1)
    await asyncio.sleep(LEAVES_AFTER_S)
    left = time.monotonic()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await _until_running(fleet, 0)
    return (told(fleet, "paced_stopped_at_seconds") - left) * 1000


async def _decode_tokens(served: Served, fleet: Fleet) -> int:
    await _until_running(fleet, 0)
    before = told(fleet, "paced_tokens")
    choice = await served.open(order(token_ms=10), 500)
    seen = 0
    while seen < 20:
        seen += len(await choice.read())
    choice.close()
    await _until_running(fleet, 0)
    return int(told(fleet, "paced_tokens") - before) - seen


async def _unread(served: Served, fleet: Fleet) -> float:
    before = _resident_mb()
    choice = await served.open(order(padding=PADDING), PADDED)
    await _until_running(fleet, 0)
    await asyncio.sleep(0.5)
    gained = _resident_mb() - before
    await rest(choice)
    choice.close()
    return gained


async def _until_running(fleet: Fleet, number: int) -> None:
    async with asyncio.timeout(30):
        while told(fleet, "paced_running") != number:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / (1 << 20)


def _free_ports() -> dict[str, str]:
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    try:
        return {name: str(holder.getsockname()[1]) for name, holder in zip(PORTS, holders, strict=True)}
    finally:
        for holder in holders:
            holder.close()
