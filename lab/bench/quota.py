"""`catflap lab bench quota`: what admitting and settling a request cost, in time, round trips and memory of Redis.

Two things are asked: does it stay one round trip each, whatever binds, and does it cost the same beside a thousand keys
and beside a million? Each size has a Redis of its own; all of them, and all plans, take turns in each round.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import msgspec
from redis import Redis

from gateway.core.delta import Usage
from gateway.core.reservation import Reservation
from gateway.quota.connection import RedisConnection
from gateway.quota.keeper import Quota
from lab.bench.errors import BenchError
from lab.bench.processes import redis_server, terminable
from lab.bench.quota_callers import LIMITS, PARTITIONS, PRICE, Bench, caller_of, crowd, fill_window
from lab.bench.quota_report import Cell, Memory, Step, markdown

CEILING, USED = Usage(1000, 500), Usage(1000, 200)
AT_ONCE = 64
SAMPLE = 200
"""Callers who ask, taken evenly out of the crowd: each has a window there, and gets its other limits as it asks."""
PRINCIPALS = 500
"""Of which memory is measured."""
TIMEOUT_S = 30.0

Say = Callable[[str], None]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run: the cells of all rounds, and the memory."""

    rounds: list[list[Cell]]
    memory: list[Memory]

    def json(self) -> str:
        """Everything measured."""
        return msgspec.json.format(msgspec.json.encode(self)).decode()

    def markdown(self) -> str:
        """Medians over the rounds."""
        return markdown(self.rounds, self.memory)


def run(
    *,
    rounds: int,
    requests: int,
    keys: Sequence[int] = (1_000, 1_000_000),
    principals: int = PRINCIPALS,
    say: Say = lambda line: None,
) -> Result:
    """Measure `requests` admissions and settlements for each plan and each number of keys, so many `rounds`, and the
    memory of so many `principals`.

    `say` gets a line after each step. Raises BenchError where Redis does not work or a size is too small.
    """
    if small := [size for size in keys if size < SAMPLE]:
        raise BenchError(f"{small[0]} keys are fewer than the {SAMPLE} callers who ask; give more.")
    with terminable(), tempfile.TemporaryDirectory(prefix="cf-quota-") as created, ExitStack() as stack:
        urls = {}
        for size in keys:
            folder = Path(created) / str(size)
            folder.mkdir()
            _, urls[size] = stack.enter_context(redis_server(folder))
        return asyncio.run(_measure_all(urls, rounds, requests, principals, say))


async def _measure_all(urls: dict[int, str], rounds: int, requests: int, principals: int, say: Say) -> Result:
    benches = {size: QuotaBench(url, size) for size, url in urls.items()}
    try:
        memory = await _memory(next(iter(benches.values())), principals, say)
        for size, bench in benches.items():
            await bench.prepare()
            say(f"{size} keys are there")
        measured: list[list[Cell]] = []
        for number in range(1, rounds + 1):
            cells = [await bench.cell(limits, requests) for limits in LIMITS for bench in benches.values()]
            measured.append(cells)
            say(f"round {number}: " + "; ".join(cell.line() for cell in cells))
    finally:
        for bench in benches.values():
            await bench.close()
    return Result(rounds=measured, memory=memory)


class Settlements:
    """The connection as the quota keeper sees it; it tells when a settlement has been answered."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection
        self.call = connection.call
        self.connected_since = connection.connected_since
        self.answered: asyncio.Queue[None] = asyncio.Queue()

    def post(self, script: Any, names: Any, args: Any, *, hear: Callable[[object], None], **options: Any) -> None:
        def heard(reply: object) -> None:
            hear(reply)
            self.answered.put_nowait(None)

        self._connection.post(script, names, args, hear=heard, **options)


class QuotaBench:
    """The real keeper and connection on one Redis."""

    def __init__(self, url: str, size: int) -> None:
        self.size = size
        self.server: Any = Redis.from_url(url)
        self._connection = RedisConnection(url, timeout_s=TIMEOUT_S)
        self._settlements = Settlements(self._connection)
        self._quota = self._new_quota()
        self._started = False
        self._requests = 0

    def _new_quota(self) -> Quota:
        """Anew for each cell: no ledger reads here, and settlements that it has not confirmed would be guarded."""
        return Quota(cast(Any, self._settlements), PARTITIONS)

    async def prepare(self) -> None:
        """All keys known, all scripts loaded."""
        await self.start()
        await self.once(caller_of(0, 1))
        crowd(self.server, self.size)
        for limits in LIMITS:
            for caller in self._sample(limits):
                await self.once(caller)

    async def start(self) -> None:
        if not self._started:
            self._started = True
            await self._connection.start()

    async def close(self) -> None:
        await self._connection.close()
        self.server.close()

    async def admit(self, bench: Bench) -> Reservation:
        self._requests += 1
        event = bench.event(f"req_{self._requests:032x}")
        admitted = await self._quota.admit(bench.caller, bench.limits, CEILING, event, Usage(), PRICE)
        if not isinstance(admitted, Reservation):
            raise BenchError("A limit of 1,000,000,000 refused a request of the benchmark.")
        return admitted

    def settle(self, bench: Bench, reservation: Reservation) -> None:
        event = msgspec.structs.replace(
            bench.event(reservation.request),
            prompt_tokens=USED.prompt_tokens,
            completion_tokens=USED.completion_tokens,
            cost=PRICE.units(USED),
        )
        self._quota.settle(reservation, bench.limits, event)

    async def settled(self) -> None:
        """The next settlement has been answered."""
        await self._settlements.answered.get()

    async def once(self, bench: Bench) -> None:
        """One request from admission to settlement."""
        self.settle(bench, await self.admit(bench))
        await self.settled()

    async def cell(self, limits: int, requests: int) -> Cell:
        """One plan beside this many keys: alone, one after the other, then many at once."""
        self._quota, sample = self._new_quota(), self._sample(limits)
        callers = [sample[n % len(sample)] for n in range(requests)]
        held: list[Reservation] = []

        async def admit(n: int) -> None:
            held.append(await self.admit(callers[n]))

        async def settle(n: int) -> None:
            self.settle(callers[n], held[n])
            await self.settled()

        admitted = await self._step(admit, requests)
        settled = await self._step(settle, requests)
        together = await self._at_once(callers)
        return Cell(limits=limits, keys=self.size, admit=admitted, settle=settled, together_us=together)

    async def _step(self, act: Callable[[int], Awaitable[None]], times: int) -> Step:
        """Do it so many times, one after the other."""
        before = self._counted()
        took = []
        for n in range(times):
            began = time.perf_counter()
            await act(n)
            took.append((time.perf_counter() - began) * 1e6)
        after = self._counted()
        scripts, reads, busy_us = (now - then for now, then in zip(after, before, strict=True))
        return Step(
            median_us=statistics.median(took),
            p99_us=statistics.quantiles(took, n=100)[98],
            redis_us=busy_us / times,
            scripts=scripts / times,
            round_trips=(reads - 1) / times,  # asking for the counts is a read as well
        )

    async def _at_once(self, callers: Sequence[Bench]) -> float:
        """Microseconds for a request, admission and settlement, when many are under way."""
        began = time.perf_counter()
        for start in range(0, len(callers), AT_ONCE):
            await asyncio.gather(*(self.once(caller) for caller in callers[start : start + AT_ONCE]))
        return (time.perf_counter() - began) * 1e6 / len(callers)

    def _counted(self) -> tuple[int, int, int]:
        """(scripts run, reads from clients, microseconds in scripts) so far, as Redis counts them itself."""
        statistics_of = self.server.info("everything")
        commands = [statistics_of.get(f"cmdstat_{name}", {}) for name in ("evalsha", "eval")]
        scripts, busy = (sum(int(one.get(field, 0)) for one in commands) for field in ("calls", "usec"))
        return scripts, int(statistics_of["total_reads_processed"]), busy

    def _sample(self, limits: int) -> list[Bench]:
        return [caller_of(n, limits) for n in range(0, self.size, self.size // SAMPLE)][:SAMPLE]


async def _memory(bench: QuotaBench, principals: int, say: Say) -> list[Memory]:
    """What principals weigh in an empty Redis, and what a request in flight weighs."""
    await bench.start()
    found = []
    for limits in LIMITS:
        bench.server.flushall()
        await bench.once(caller_of(principals, limits))
        callers = [caller_of(n, limits) for n in range(principals)]
        empty = _used(bench)
        for caller in callers:
            await bench.once(caller)
        quiet = _used(bench)
        for caller in callers:
            fill_window(bench.server, caller)
        busy = _used(bench)
        held = [await bench.admit(caller) for caller in callers]
        flying = _used(bench)
        for caller, reservation in zip(callers, held, strict=True):
            bench.settle(caller, reservation)
        each = [(after - before) // principals for after, before in ((quiet, empty), (busy, empty), (flying, busy))]
        found.append(Memory(limits=limits, quiet_bytes=each[0], busy_bytes=each[1], in_flight_bytes=each[2]))
        say(f"memory under {limits} limits: {each[0]} to {each[1]} bytes a principal, {each[2]} a request in flight")
        for _ in held:
            await bench.settled()
    bench.server.flushall()
    return found


def _used(bench: QuotaBench) -> int:
    """Bytes in use, the streams of finished events aside: those are the ledger's, and gone when it has read them."""
    if streams := list(bench.server.scan_iter("cf:*:events", count=10_000)):
        bench.server.delete(*streams)
    return int(bench.server.info("memory")["used_memory"])
