"""One house, one steady load, and one fault after the other: each with some seconds of calm around it."""

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from gateway.identity.issue import IssuedKey
from lab.bench.errors import BenchError
from lab.books.judge import COSTS, judge
from lab.books.mix import Wish
from lab.books.shelf import at_rest, end_user, read_truths, rows_by_name
from lab.house.client import Line, Seen
from lab.house.house import House
from lab.house.postgres import PostgresServer, find_postgres
from lab.house.redis import RedisHouse
from lab.house.upstream import Order

GATEWAYS, CLIENTS, PAUSE_S = 2, 12, 0.1
PLAN = "faults"
LIMITS = [
    {"measure": "tokens", "limit": 10**9, "at": "key"},
    {"measure": "concurrency", "limit": 10**4, "at": "organisation"},
    {"measure": "cost", "limit": 10**8, "at": "organisation"},
]
BEFORE_S, AFTER_S = 2.0, 4.0
AT_REST_S = 60.0

Say = Callable[[str], None]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one fault did."""

    fault: str
    lasted_s: float
    seconds: list[dict[str, int]]
    """Answers by status in each second since it began, by when the request was sent; '0' where there was none."""
    longest_s: float
    """The longest that any request took, from the fault's beginning on."""
    longest_before_s: float
    back_s: float
    """From the fault's end until the last request that was not answered with 200 was sent; 0 where there was none."""
    told: int
    """Requests answered with 200."""
    lost: list[str]
    """Requests that the ledger does not say what the client says of, in sentences."""

    @property
    def statuses(self) -> dict[str, int]:
        """Answers by status, from the fault's beginning on."""
        return dict(sum((Counter(second) for second in self.seconds), Counter()))


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run."""

    findings: list[Finding]

    def json(self) -> str:
        """All of it."""
        return msgspec.json.format(msgspec.json.encode(self)).decode()


class Fault(msgspec.Struct, frozen=True):
    """`begin`, so many seconds, `end`."""

    name: str
    seconds: float
    begin: Callable[[], Awaitable[None]]
    end: Callable[[], Awaitable[None]]


def run(*, seconds: float, ledger_seconds: float, say: Say = lambda line: None) -> Result:
    """Every fault for so many seconds, the ledger's for `ledger_seconds`. Raises BenchError."""
    return asyncio.run(run_async(seconds=seconds, ledger_seconds=ledger_seconds, say=say))


async def run_async(*, seconds: float, ledger_seconds: float, say: Say) -> Result:
    """`run` in an event loop that is there already."""
    binaries = find_postgres()
    if binaries is None:
        raise BenchError("PostgreSQL is missing (initdb, pg_ctl); it comes with Debian's package postgresql.")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cf-faults-")))
        postgres = PostgresServer(binaries, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cf-pg-"))))
        postgres.create()
        postgres.start()
        stack.callback(postgres.stop)
        house = House(
            folder,
            RedisHouse("7.0", folder / "redis", persist=True),
            plans={PLAN: LIMITS},
            gateways=GATEWAYS,
            database_url=postgres.fresh(),
            costs=COSTS,
            settings={"CATFLAP_ACCESS_LOG": "false", "CATFLAP_PARTITIONS": "8"},
        )
        try:
            await house.start()
            trial = Trial(house, await house.key("acme", "web", "ann", PLAN))
            findings = []
            for fault in faults(house, postgres, seconds, ledger_seconds):
                findings.append(await trial.meet(fault))
                say(f"{fault.name}: {findings[-1].statuses}, longest {findings[-1].longest_s:.2f} s")
            return Result(findings=findings)
        finally:
            await house.stop()


def faults(house: House, postgres: PostgresServer, seconds: float, ledger_seconds: float) -> list[Fault]:
    """Each of them."""
    (redis,) = house.redis.nodes
    ledger = house.workers["ledger"]

    async def nothing() -> None:
        pass

    return [
        Fault("Redis is killed (SIGKILL)", seconds, _aside(redis.kill), _aside(redis.start)),
        Fault("Redis is paused (SIGSTOP)", seconds, _aside(redis.pause), _aside(redis.resume)),
        Fault("Redis is flushed (FLUSHALL)", 0.0, _aside(house.redis.flush), nothing),
        Fault("the database is stopped", seconds, _aside(postgres.stop), _aside(postgres.start)),
        Fault("the ledger is killed", ledger_seconds, _aside(ledger.kill), _aside(ledger.start)),
    ]


def _aside(act: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    """In a thread: the clients go on meanwhile."""

    async def acting() -> None:
        await asyncio.to_thread(act)

    return acting


class Trial:
    """A steady load of short requests."""

    def __init__(self, house: House, issued: IssuedKey) -> None:
        self._house = house
        self._issued = issued
        self._number = 0
        self._log: list[tuple[Wish, Seen]] = []
        self._over = False

    async def meet(self, fault: Fault) -> Finding:
        """The load before, during and after a fault, and what the ledger says of it in the end."""
        self._log, self._over = [], False
        clients = [asyncio.create_task(self._client(number)) for number in range(CLIENTS)]
        await asyncio.sleep(BEFORE_S)
        began = time.monotonic()
        await fault.begin()
        await asyncio.sleep(fault.seconds)
        await fault.end()
        ended = time.monotonic()
        await asyncio.sleep(AFTER_S)
        self._over = True
        await asyncio.gather(*clients)
        rested = await at_rest(self._house, AT_REST_S)
        lost = await self._lost()
        return finding(fault.name, self._log, began, ended, lost if rested else [*lost, "something is held for ever"])

    async def _client(self, number: int) -> None:
        chance = random.Random(number)
        lines = [Line(gateway.port) for gateway in self._house.gateways]
        await asyncio.sleep(PAUSE_S * chance.random())
        while not self._over:
            self._number += 1
            one = short(self._number, chance)
            line = chance.choice(lines)
            self._log.append((one, await line.post("/v1/completions", self._issued.token, one.body())))
            await asyncio.sleep(PAUSE_S)
        for line in lines:
            line.close()

    async def _lost(self) -> list[str]:
        organisation = self._issued.record.organisation
        rows = await rows_by_name(self._house, {end_user(organisation, one.name): one.name for one, _ in self._log})
        truths = read_truths(self._house.truths)
        judged = [judge(one, seen, rows.get(one.name, ()), truths.get(one.name, ())) for one, seen in self._log]
        return [one.problem for one in judged if one.problem]


def short(number: int, chance: random.Random) -> Wish:
    """A request that is answered at once, streamed or whole."""
    order = Order(id=f"f{number}", pieces=chance.randint(1, 5), tokens=chance.randint(1, 3), gap_ms=5)
    stream = chance.random() < 0.5
    return Wish(
        name=order.id,
        kind="streamed" if stream else "whole",
        key=0,
        order=order,
        stream=stream,
        include_usage=stream,
        max_tokens=20,
    )


def finding(fault: str, log: Sequence[tuple[Wish, Seen]], began: float, ended: float, lost: list[str]) -> Finding:
    """The clients' log in numbers. Pure."""
    seen = [one for _, one in log]
    since = [one for one in seen if one.last >= began]
    number = int(max((one.sent for one in since), default=began) - began) + 1
    seconds: list[Counter[str]] = [Counter() for _ in range(number)]
    for one in since:
        seconds[max(0, int(one.sent - began))][str(one.status)] += 1
    failed = [one.sent for one in since if one.status != 200]
    return Finding(
        fault=fault,
        lasted_s=ended - began,
        seconds=[dict(second) for second in seconds],
        longest_s=max((one.last - one.sent for one in since), default=0.0),
        longest_before_s=max((one.last - one.sent for one in seen if one.last < began), default=0.0),
        back_s=max(0.0, max(failed, default=ended) - ended),
        told=sum(one.status == 200 for one in seen),
        lost=lost,
    )
