"""One run: clients, and meanwhile every death that there is; then the books are opened."""

import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec

from lab.bench.errors import BenchError
from lab.books.accounts import differences
from lab.books.judge import COSTS, Judged, judge
from lab.books.mix import Wish, wish
from lab.books.mortal import POINTS
from lab.books.shelf import at_rest, end_user, held, read_truths, rows_by_name
from lab.house.client import Line, Seen
from lab.house.house import Gateway, House
from lab.house.postgres import PostgresServer, find_postgres
from lab.house.redis import RedisHouse
from lab.house.upstream import Order

GATEWAYS, CLIENTS = 3, 48
ORGANISATIONS, KEYS = 3, 6
PLAN = "books"
LIMITS = [
    {"measure": "requests", "limit": 10**6, "at": "key"},
    {"measure": "tokens", "limit": 10**9, "at": "principal"},
    {"measure": "tokens", "per": "day", "limit": 10**9, "at": "project"},
    {"measure": "concurrency", "limit": 10**4, "at": "organisation"},
    {"measure": "cost", "limit": 10**8, "at": "organisation"},
    {"measure": "cost", "limit": 10**8, "at": "key"},
]
SETTINGS = {
    "CATFLAP_PARTITIONS": "8",
    "CATFLAP_FIRST_TOKEN_TIMEOUT_S": "1.5",
    "CATFLAP_TOKEN_TIMEOUT_S": "1",
    "CATFLAP_DRAIN_TIMEOUT_S": "2",
    "CATFLAP_REDIS_TIMEOUT_MS": "1000",
    "CATFLAP_ACCESS_LOG": "false",
}
AT_REST_S = 60.0
"""Longer than a dead gateway's reservations live, and the ledger needs."""
LOST_S = 1.0
"""What Redis loses when its machine stops, with `appendfsync everysec`."""
SAFE_S = 2.5
"""Gateways that live say again what Redis has lost: so none of them dies around the death of Redis."""

FROM_OUTSIDE = "a gateway is killed"
AHEAD = 0.15
MEANWHILE = 40
"""Clients wait for a fault when they are so far ahead of its place, in parts of the run; while it acts, so many
requests a second go on: each fault is to meet some."""

Say = Callable[[str], None]


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """The judgement on a whole run."""

    judged: list[Judged]
    left_over: list[str]
    """What is still held in Redis, by key."""
    differences: list[str]
    """Between rows, roll-ups, spend, and Redis's budgets."""
    strangers: int
    """Rows that belong to no request."""
    deaths: dict[str, int]
    seconds: float

    @property
    def in_flight(self) -> list[Judged]:
        """Requests whose gateway was killed under them."""
        return [one for one in self.judged if one.in_flight]

    @property
    def problems(self) -> list[str]:
        """None when the books balance."""
        found = [one.problem for one in self.judged if one.problem]
        found += [f"{key} is left over" for key in self.left_over] + self.differences
        return found + ([f"{self.strangers} rows belong to no request"] if self.strangers else [])

    def json(self) -> str:
        """All of it."""
        return msgspec.json.encode(self).decode()


def run(*, requests: int, deaths: int, redis: str = "7.0", seed: int = 1, say: Say = lambda line: None) -> Books:
    """So many requests, and about so many gateways killed under them, on this kind of Redis. Raises BenchError."""
    return asyncio.run(run_async(requests=requests, deaths=deaths, redis=redis, seed=seed, say=say))


async def run_async(*, requests: int, deaths: int, redis: str, seed: int, say: Say) -> Books:
    """`run` in an event loop that is there already."""
    binaries = find_postgres()
    if binaries is None:
        raise BenchError("PostgreSQL is missing (initdb, pg_ctl); it comes with Debian's package postgresql.")
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cf-books-")))
        postgres = PostgresServer(binaries, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cf-pg-"))))
        postgres.create()
        postgres.start()
        stack.callback(postgres.stop)
        house = House(
            folder,
            RedisHouse(redis, folder / "redis", persist=True),
            plans={PLAN: LIMITS},
            gateways=GATEWAYS,
            database_url=postgres.fresh(),
            costs=COSTS,
            settings=SETTINGS,
        )
        try:
            trial = Trial(house, postgres, requests, deaths, random.Random(seed), say)
            await trial.run()
            return await trial.books(time.monotonic() - began)
        finally:
            await house.stop()


class Trial:
    """The clients and the deaths of one run."""

    def __init__(
        self, house: House, postgres: PostgresServer, requests: int, deaths: int, chance: random.Random, say: Say
    ) -> None:
        self._house = house
        self._postgres = postgres
        self._requests = requests
        self._between_deaths = max(2, requests // max(deaths, 1))
        self._chance = chance
        self._say = say
        self._calm = house.folder / "calm"
        self._deaths: Counter[str] = Counter()
        self._next_point = cycle(POINTS)
        self._points: dict[str, str] = {}
        self._numbers = iter(range(requests))
        self._log: list[tuple[Wish, Seen]] = []
        self._tokens: list[str] = []
        self._digests: dict[str, str] = {}
        self._organisations: list[str] = []
        self._most = 0.0
        self._acting_since: float | None = None
        self._deaths_of_redis: list[float] = []
        self._over = False

    async def run(self) -> None:
        """Everything from the first request to the last, and until nothing is under way any more."""
        for gateway in self._house.gateways:
            self._arm(gateway)
        await self._house.start()
        for number in range(KEYS):
            names = (f"org {number % ORGANISATIONS}", "web", f"person {number}")
            issued = await self._house.key(*names, PLAN)
            self._tokens.append(issued.token)
            self._organisations.append(issued.record.organisation)
        keepers = [asyncio.create_task(self._keep(gateway)) for gateway in self._house.gateways]
        faults = asyncio.create_task(self._faults())
        await asyncio.gather(*(self._client() for _ in range(CLIENTS)))
        self._calm.touch()
        await faults
        self._over = True
        await asyncio.gather(*keepers)
        self._say(f"{len(self._log)} requests asked; waiting for the books to come to rest")
        await at_rest(self._house, AT_REST_S)
        await self._once_more()
        await at_rest(self._house, AT_REST_S)

    async def _client(self) -> None:
        lines = [Line(gateway.port) for gateway in self._house.gateways]
        for number in self._numbers:
            while number >= self._allowed():  # noqa: ASYNC110 - raised by each fault in turn
                await asyncio.sleep(0.02)
            one = wish(number, self._chance, KEYS)
            self._digests[end_user(self._organisations[one.key], one.name)] = one.name
            seen = await self._ask(self._chance.choice(lines), one)
            while not seen.connected:
                await asyncio.sleep(0.1)
                seen = await self._ask(self._chance.choice(lines), one)
            self._log.append((one, seen))
        for line in lines:
            line.close()

    async def _once_more(self) -> None:
        """A plain request with each key: what Redis lost of a budget, the subject's next booking puts right."""
        lines = [Line(gateway.port) for gateway in self._house.gateways]
        for number in range(KEYS):
            order = Order(id=f"last{number}", pieces=2)
            one = Wish(name=order.id, kind="whole", key=number, order=order, max_tokens=2)
            self._digests[end_user(self._organisations[number], one.name)] = one.name
            self._log.append((one, await self._ask(lines[number % GATEWAYS], one)))
        for line in lines:
            line.close()

    def _allowed(self) -> float:
        """How many requests may have been begun by now; while a fault acts, more all the time."""
        if self._acting_since is None:
            return self._most
        return self._most + MEANWHILE * (time.monotonic() - self._acting_since)

    async def _ask(self, line: Line, one: Wish) -> Seen:
        token = self._tokens[one.key]
        return await line.post("/v1/completions", token, one.body(), leave_after=one.leave_after)

    def _arm(self, gateway: Gateway) -> None:
        """The next life of this gateway ends at the next of the points."""
        point = self._points[gateway.name] = next(self._next_point)
        after = round(self._between_deaths * self._chance.uniform(0.5, 1.5))
        gateway.run_as([sys.executable, "-m", "lab.books.mortal", point, str(after), str(self._calm)])

    async def _keep(self, gateway: Gateway) -> None:
        """Start it again whenever it has died."""
        while not self._over or not gateway.alive:
            if not gateway.alive:
                self._deaths[self._points[gateway.name]] += 1
                self._arm(gateway)
                gateway.start()
            await asyncio.sleep(0.05)

    async def _faults(self) -> None:
        """What dies from outside, in turn, as the run goes on."""
        house = self._house
        steps: list[tuple[float, str, Callable[[], Any]]] = [
            (0.10, FROM_OUTSIDE, lambda: self._kill_gateway(0)),
            (0.20, "Redis dies and loses a second", self._kill_redis),
            (0.40, "the ledger is killed", lambda: self._restart(house.workers["ledger"])),
            (0.50, "the database is stopped", self._stop_database),
            (0.65, "the reclaimer is killed", lambda: self._restart(house.workers["reclaimer"])),
            (0.75, "Redis dies and loses a second", self._kill_redis),
            (0.90, FROM_OUTSIDE, lambda: self._kill_gateway(1)),
        ]
        for at, what, act in steps:
            self._most = max(self._most, (at + AHEAD) * self._requests)
            while len(self._log) < at * self._requests:  # noqa: ASYNC110 - counted up by many clients
                await asyncio.sleep(0.02)
            self._say(f"{len(self._log)} requests: {what}")
            self._deaths[what] += what != FROM_OUTSIDE  # counted when it is found dead
            self._acting_since = time.monotonic()
            await act()
            self._most, self._acting_since = self._allowed(), None
        self._most = self._requests

    async def _kill_gateway(self, number: int) -> None:
        gateway = self._house.gateways[number]
        self._points[gateway.name] = FROM_OUTSIDE
        gateway.kill()

    async def _kill_redis(self) -> None:
        redis = self._chance.choice(self._house.redis.nodes)
        self._calm.touch()
        await asyncio.sleep(SAFE_S)
        written = redis.written()
        await asyncio.sleep(LOST_S)
        redis.kill()
        redis.lose_since(written)
        self._deaths_of_redis.append(time.monotonic())
        await asyncio.sleep(0.5)
        await asyncio.to_thread(redis.start)
        await asyncio.sleep(SAFE_S)
        self._calm.unlink()

    async def _stop_database(self) -> None:
        await asyncio.to_thread(self._postgres.stop)
        await asyncio.sleep(1.0)
        await asyncio.to_thread(self._postgres.start)

    async def _restart(self, worker: Any) -> None:
        worker.kill()
        await asyncio.sleep(0.5)
        worker.start()

    def _forgotten(self, seen: Seen) -> bool:
        """Whether it may have been admitted in a second that Redis lost, and was still running then."""
        return any(at - 2 * LOST_S < seen.sent < at < seen.last for at in self._deaths_of_redis)

    async def books(self, seconds: float) -> Books:
        """Open them. What is still held, or not read, when they should have come to rest, they say."""
        rows = await rows_by_name(self._house, self._digests)
        truths = read_truths(self._house.truths)
        judged = [
            judge(one, seen, rows.get(one.name, ()), truths.get(one.name, ()), forgotten=self._forgotten(seen))
            for one, seen in self._log
        ]
        return Books(
            judged=judged,
            left_over=held(self._house),
            differences=await differences(self._house),
            strangers=len(rows.get("", ())),
            deaths=dict(+self._deaths),
            seconds=seconds,
        )
