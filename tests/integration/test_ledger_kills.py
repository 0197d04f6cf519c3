"""The ledger killed: at any point in its round, and for real, by SIGKILL."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core.event import RequestEvent
from gateway.quota.client import connect_redis
from gateway.quota.keys import events_key
from gateway.storage import tables
from gateway.storage.database import Database, connect
from gateway.storage.ledger import Position
from gateway.workers.budgets import Budgets
from gateway.workers.ledger import Ledger
from gateway.workers.streams import Entry, Streams
from tests.support.books import audit
from tests.support.events import make_event
from tests.support.ledger import append, booked, rejects
from tests.support.redis import RedisServer

PARTITIONS = 3
BROKEN = b"{broken"
BOOKS = (
    *(tables.request_event, tables.ledger_cursor, tables.ledger_reject),
    *(tables.usage_hour, tables.usage_day, tables.spend),
)


class Killed(BaseException):
    """The process is no more. Not an Exception: nothing may catch it."""


class Fate:
    """Lets so many steps pass before each death, in turn."""

    def __init__(self, lives: Sequence[int]) -> None:
        self._lives = list(lives)

    def step(self) -> None:
        if not self._lives:
            return
        self._lives[0] -= 1
        if self._lives[0] < 0:
            self._lives.pop(0)
            raise Killed


class MortalStreams(Streams):
    """Real streams; the process may die before and after each use."""

    def __init__(self, redis: Redis, fate: Fate) -> None:
        super().__init__(redis, PARTITIONS)
        self._fate = fate

    async def read(self, after: Sequence[Position], most: int, block_ms: int) -> list[Entry]:
        self._fate.step()
        found = await super().read(after, most, block_ms)
        self._fate.step()
        return found

    async def confirm(self, committed: Mapping[int, Position]) -> None:
        self._fate.step()
        await super().confirm(committed)
        self._fate.step()


class MortalDatabase(Database):
    """A real database; the process may die before a transaction, before its commit, and right after it."""

    def __init__(self, database: Database, fate: Fate) -> None:
        super().__init__(database.engine)
        self._fate = fate

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        self._fate.step()
        async with super().write() as connection:
            yield connection
            self._fate.step()
        self._fate.step()


async def run_to_the_end(redis: Redis, database: Database, fate: Fate, batch: int) -> None:
    """Ledgers, each the successor of the one that was killed, until the streams are empty."""
    while True:
        mortal = MortalDatabase(database, fate)
        ledger = Ledger(MortalStreams(redis, fate), Budgets(redis), mortal, PARTITIONS, batch=batch, block_ms=1)
        try:
            while await ledger.round():
                pass
        except Killed:
            continue
        return


numbers = st.lists(st.tuples(st.integers(0, PARTITIONS - 1), st.integers(0, 40) | st.none()), max_size=40)


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(entries=numbers, lives=st.lists(st.integers(0, 12), max_size=12), batch=st.integers(1, 12))
async def test_a_ledger_killed_at_any_point_loses_nothing_and_counts_nothing_twice(
    redis_server: RedisServer, sqlite_url: str, entries: list[tuple[int, int | None]], lives: list[int], batch: int
) -> None:
    redis, database = connect_redis(redis_server.url, timeout_s=2), connect(sqlite_url)
    await redis.flushall()
    async with database.write() as connection:
        for table in BOOKS:
            await connection.execute(table.delete())
    expected = {}
    for partition, number in entries:
        made: RequestEvent | bytes = BROKEN
        if number is not None:
            made = make_event(number * PARTITIONS + partition, completion_tokens=number, cost=number)
            expected[made.request] = 10 + number
        await append(redis, partition, [made])
    await run_to_the_end(redis, database, Fate(lives), batch)
    assert await booked(database) == expected
    await audit(database)
    assert len(await rejects(database)) == sum(number is None for _, number in entries)
    assert [await redis.xlen(events_key(partition)) for partition in range(PARTITIONS)] == [0] * PARTITIONS
    await redis.aclose()
    await database.close()


def spawn(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    script = "import typer; from gateway.commands.work import work; typer.run(work)"
    return subprocess.Popen(
        [sys.executable, "-c", script, "ledger"], env={**os.environ, **environment}, stderr=subprocess.PIPE
    )


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        body: bytes = answer.read()
    return body.decode()


@asynccontextmanager
async def trims(redis: Redis) -> AsyncIterator[PubSub]:
    """Redis tells of each trimmed stream."""
    await redis.config_set("notify-keyspace-events", "Et")
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe("__keyevent@0__:xtrim")
        await pubsub.get_message(timeout=5)  # that we are subscribed
        yield pubsub


async def next_trim(pubsub: PubSub) -> None:
    assert await pubsub.get_message(timeout=30), "the ledger trimmed nothing in 30 s"


@pytest.fixture
def environment(database_url: str, redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    return {
        "CATFLAP_DATABASE_URL": database_url,
        "CATFLAP_REDIS_URL": redis_server.url,
        "CATFLAP_DATA_DIR": str(tmp_path),
        "CATFLAP_PARTITIONS": str(PARTITIONS),
        "CATFLAP_WORK_METRICS_PORT": "0",
    }


@pytest.mark.slow
async def test_a_ledger_killed_by_sigkill_is_followed_by_one_that_completes_the_books(
    environment: dict[str, str], database_url: str, redis_server: RedisServer
) -> None:
    redis, database = connect_redis(redis_server.url, timeout_s=30), connect(database_url)
    expected: dict[str, int] = {}
    async with trims(redis) as trimmed:
        for life in range(3):
            for partition in range(PARTITIONS):
                made = [make_event((life * PARTITIONS + partition) * 700 + number) for number in range(700)]
                expected |= {each.request: 15 for each in made}
                await append(redis, partition, made)
            process = spawn(environment)
            await next_trim(trimmed)  # it is in the midst of it
            process.kill()
            process.communicate()
        process = spawn(environment)
        last = make_event(10**6)  # only this process can take it off: when it is gone, signals are heard
        expected[last.request] = 15
        await append(redis, 0, [last])
        while sum([await redis.xlen(events_key(partition)) for partition in range(PARTITIONS)]):
            await next_trim(trimmed)
        process.terminate()
        _, said = await asyncio.to_thread(process.communicate, timeout=20)
    assert process.returncode == 0, said
    assert await booked(database) == expected
    await audit(database)
    await redis.aclose()
    await database.close()


async def test_the_worker_shows_its_metrics_and_stops_cleanly_on_a_signal(
    environment: dict[str, str], redis_server: RedisServer
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    redis = connect_redis(redis_server.url, timeout_s=30)
    async with trims(redis) as trimmed:
        await append(redis, 0, [make_event(1), BROKEN])
        process = spawn({**environment, "CATFLAP_WORK_METRICS_PORT": str(port)})
        await next_trim(trimmed)
    metrics = await asyncio.to_thread(scrape, port)
    assert "catflap_ledger_events_total 1.0" in metrics
    assert "catflap_ledger_rejected_total 1.0" in metrics
    assert "catflap_ledger_lag_seconds" in metrics
    process.send_signal(signal.SIGINT)
    _, said = await asyncio.to_thread(process.communicate, timeout=20)
    assert process.returncode == 0
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["event"] for line in lines] == ["ledger_entries_rejected"]
    assert "broken" not in said.decode()
    await redis.aclose()
