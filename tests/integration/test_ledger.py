"""The ledger on real databases and a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import event
from gateway.core.facts import ClientFacts, Facts, Roll
from gateway.core.record import Record
from gateway.quota.client import connect_redis
from gateway.quota.keys import events_key
from gateway.storage import ledger as storage
from gateway.storage.database import Database, connect
from gateway.storage.migrate import migrate
from gateway.storage.rows import event_of
from gateway.storage.tables import request_event
from gateway.workers import ledger as room
from gateway.workers.budgets import Budgets
from gateway.workers.ledger import Ledger, Outage
from gateway.workers.streams import Streams
from tests.support.events import make_event
from tests.support.eventually import eventually
from tests.support.ledger import WatchedDatabase, append, booked, rejects
from tests.support.postgres import PostgresServer
from tests.support.redis import RedisServer, redis_binary

PARTITIONS = 4


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = connect_redis(redis_server.url, timeout_s=2)
    yield client
    await client.aclose()


def ledger_of(redis: Redis, database: Database, batch: int = 500, block_ms: int = 1) -> Ledger:
    return Ledger(Streams(redis, PARTITIONS), Budgets(redis), database, PARTITIONS, batch=batch, block_ms=block_ms)


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def drain(ledger: Ledger) -> list[int]:
    """Rounds until there is nothing; how many entries each had."""
    sizes = []
    while size := await ledger.round():
        sizes.append(size)
    return sizes


async def lengths(redis: Redis) -> list[int]:
    return [int(await redis.xlen(events_key(partition))) for partition in range(PARTITIONS)]


async def nothing_waits(redis: Redis) -> bool:
    return not any(await lengths(redis))


class Lines:
    """A logger that remembers."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, object]]] = []
        self.spoke = asyncio.Event()

    def info(self, line: str, **fields: object) -> None:
        self.said.append((line, fields))
        self.spoke.set()

    error = warning = info


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    found = Lines()
    monkeypatch.setattr(room, "log", found)
    return found


async def test_every_field_of_an_event_comes_to_rest_in_its_column(database: Database, redis: Redis) -> None:
    written = make_event(
        1, stream=True, finish_reason="stop", reserved_tokens=99, choices=2, ttft_ms=12, duration_ms=40,
        upstream="triton-1", region="north", attempts=2, end_user="digest", cached_tokens=7, cost=21, kv_cost=4,
        beyond_prompt_tokens=5, beyond_cached_tokens=4, beyond_completion_tokens=3, beyond_cost=2, contained=True,
        shadow="pool:decoy", canary_said=True, matched=("cat", "slow"), logged=("fresh",), flags=("probe",),
        record=Record(facts=Facts(client=ClientFacts(ip="::1")), roll=Roll(2**64 - 1, 7), ruleset="v1",
                      answers={"p1": True}),
    )  # fmt: skip
    await append(redis, 2, [written])
    await drain(ledger_of(redis, database))
    async with database.read() as connection:
        row = (await connection.execute(request_event.select())).mappings().one()
        assert (await storage.cursors(connection)).keys() == {2}
    assert event_of(dict(row)) == written
    assert await lengths(redis) == [0] * PARTITIONS


async def test_a_batch_is_bounded_and_a_busy_partition_starves_no_other(database: Database, redis: Redis) -> None:
    await append(redis, 0, [make_event(number) for number in range(95)])
    await append(redis, 3, [make_event(1000)])
    sizes = await drain(ledger_of(redis, database, batch=20))
    assert max(sizes) == 20
    assert len(sizes) == 5
    assert len(await booked(database)) == 96


async def test_an_event_that_comes_twice_is_booked_once(database: Database, redis: Redis) -> None:
    await append(redis, 0, [make_event(1), make_event(1), make_event(2)])
    await drain(ledger_of(redis, database, batch=4))
    await append(redis, 0, [make_event(1, completion_tokens=900)])
    await drain(ledger_of(redis, database))
    assert await booked(database) == {make_event(1).request: 15, make_event(2).request: 15}


async def test_a_settlement_replaces_what_the_reclaimer_wrote_and_is_itself_never_replaced(
    database: Database, redis: Redis
) -> None:
    settled = make_event(1, completion_tokens=9)
    reclaimed = make_event(1, outcome="reclaimed", completion_tokens=2)
    dead = make_event(2, outcome="reclaimed", completion_tokens=3)
    await append(redis, 0, [reclaimed, settled, dead])
    await drain(ledger_of(redis, database))
    assert await booked(database) == {settled.request: 19, dead.request: 13}
    await append(redis, 0, [reclaimed, dead])
    await drain(ledger_of(redis, database))
    assert await booked(database) == {settled.request: 19, dead.request: 13}


async def test_what_is_no_event_is_kept_apart_and_stops_nothing(database: Database, redis: Redis) -> None:
    before = metric("catflap_ledger_rejected_total")
    await append(redis, 0, [make_event(1), b"{broken", make_event(2), event.encode(make_event(3, model="a\0"))])
    await redis.xadd(events_key(0), {"other": "field"})
    await append(redis, 0, [make_event(4)])
    await drain(ledger_of(redis, database))
    assert len(await booked(database)) == 3
    found = await rejects(database)
    assert [reject["reason"] for reject in found] == ["not JSON", "a value out of bounds", "no field e"]
    assert found[0]["body"] == b"{broken"
    assert metric("catflap_ledger_rejected_total") - before == 3
    assert await lengths(redis) == [0] * PARTITIONS


async def test_an_event_whose_record_is_too_long_is_booked_without_it_and_counted(
    database: Database, redis: Redis, lines: Lines
) -> None:
    before = metric("catflap_ledger_records_dropped_total")
    client = ClientFacts(user_agent="a" * 20_000)
    long = make_event(1, record=Record(facts=Facts(client=client), roll=Roll(1, 2), ruleset="v1"))
    await append(redis, 0, [long, make_event(2)])
    await drain(ledger_of(redis, database))
    assert metric("catflap_ledger_records_dropped_total") - before == 1
    assert lines.said == [("ledger_records_dropped", {"count": 1})]
    assert len(await booked(database)) == 2


async def test_a_value_that_only_the_database_refuses_is_kept_apart_too(
    database: Database, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_c: object, _cu: object, statement: str, parameters: object, _x: object, _m: object) -> None:
        if "request_event" in statement and make_event(2).request in str(parameters):
            raise DataError(statement, {}, ValueError("refused"))

    sqlalchemy_event.listen(database.engine.sync_engine, "before_cursor_execute", refuse)
    await append(redis, 0, [make_event(1), make_event(2), make_event(3)])
    await drain(ledger_of(redis, database))
    assert set(await booked(database)) == {make_event(1).request, make_event(3).request}
    assert [reject["reason"] for reject in await rejects(database)] == ["the database refused it"]
    assert await lengths(redis) == [0] * PARTITIONS


@pytest.mark.slow
async def test_two_ledgers_at_once_do_no_harm(database_url: str, redis_server: RedisServer) -> None:
    stop = asyncio.Event()
    clients = [connect_redis(redis_server.url, timeout_s=5) for _ in range(2)]
    first = WatchedDatabase(connect(database_url))
    databases = [first, WatchedDatabase(connect(database_url), first)]
    ledgers = [ledger_of(*pair, batch=17, block_ms=20) for pair in zip(clients, databases, strict=True)]
    running = [asyncio.create_task(ledger.run(stop)) for ledger in ledgers]
    expected = {}
    for number in range(600):
        made = make_event(number, completion_tokens=number)
        expected[made.request] = 10 + number
        await append(clients[0], number % PARTITIONS, [made])
    await first.holds(600)
    stop.set()
    await asyncio.gather(*running)
    assert await booked(first) == expected
    assert await lengths(clients[0]) == [0] * PARTITIONS
    for client, database in zip(clients, databases, strict=True):
        await client.aclose()
        await database.close()


async def test_cursors_move_up_only(database: Database) -> None:
    async def after(*cursors: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
        for cursor in cursors:
            async with database.write() as connection:
                await storage.move_cursors(connection, cursor)
        async with database.read() as connection:
            return await storage.cursors(connection)

    assert await after({0: (5, 1), 1: (2**40, 2)}) == {0: (5, 1), 1: (2**40, 2)}
    assert await after({0: (4, 9)}, {0: (5, 0)}, {1: (1, 1)}) == {0: (5, 1), 1: (2**40, 2)}
    assert await after({0: (5, 2)}, {1: (2**40 + 1, 0)}) == {0: (5, 2), 1: (2**40 + 1, 0)}


async def test_a_redis_whose_ids_went_back_is_read_from_its_start(database: Database, redis: Redis) -> None:
    ledger = ledger_of(redis, database)
    await append(redis, 0, [make_event(1)], ids=f"{2**45}-0")
    await append(redis, 1, [make_event(2)], ids="7-7")
    await drain(ledger)
    await redis.flushall()
    await append(redis, 0, [make_event(3)], ids="5-0")
    assert await drain(ledger) == []
    await ledger.check()
    async with database.read() as connection:
        assert await storage.cursors(connection) == {0: (0, 0), 1: (0, 0)}
    assert await drain(ledger) == [1]
    async with database.read() as connection:
        assert (await storage.cursors(connection))[0] == (5, 0)
    await redis.flushall()
    await append(redis, 0, [make_event(4)], ids="4-0")
    assert await drain(ledger_of(redis, database)) == [1]  # a new ledger needs no check
    assert len(await booked(database)) == 4


async def test_the_ledger_goes_on_after_redis_was_killed(database_url: str, tmp_path: Path, lines: Lines) -> None:
    server = RedisServer(redis_binary(), tmp_path, persist=True)
    server.start()
    client, stop = connect_redis(server.url, timeout_s=2), asyncio.Event()
    database = WatchedDatabase(connect(database_url))
    running = asyncio.create_task(ledger_of(client, database, block_ms=50).run(stop))
    await append(client, 0, [make_event(1)])
    await database.holds(1)
    server.kill()
    await lines.spoke.wait()  # the ledger notices by itself
    server.start()
    await append(client, 1, [make_event(2)])
    await database.holds(2)
    stop.set()
    await running
    assert [line for line, _ in lines.said] == ["ledger_waits", "ledger_goes_on"]  # once each, however often it tried
    await client.aclose()
    await database.close()
    server.stop()


async def test_a_redis_that_hangs_is_an_outage_and_no_hang(sqlite: Database, redis_server: RedisServer) -> None:
    client = connect_redis(redis_server.url, timeout_s=0.2)
    ledger = ledger_of(client, sqlite)
    await append(client, 0, [make_event(1)])
    redis_server.pause()
    with pytest.raises(Outage, match="redis"):
        await ledger.round()
    redis_server.resume()
    assert await drain(ledger) == [1]
    await client.aclose()


async def test_the_ledger_goes_on_after_the_database_was_gone(
    postgres_server: PostgresServer, redis: Redis, lines: Lines
) -> None:
    url = postgres_server.fresh()
    migrate(url)
    database, stop = WatchedDatabase(connect(url)), asyncio.Event()
    before = metric("catflap_ledger_errors_total", dependency="database")
    ledger = ledger_of(redis, database, block_ms=20)
    running = asyncio.create_task(ledger.run(stop))
    await append(redis, 0, [make_event(1)], ids="1000-1")  # stream entries of 1970
    await database.holds(1)
    await eventually(partial(nothing_waits, redis), what="that what is committed leaves Redis")
    postgres_server.stop()
    try:
        for number in range(2, 50):
            await append(redis, 0, [make_event(number)], ids=f"1000-{number}")
        database.tried.clear()
        await lines.spoke.wait()
        await database.tried.wait()  # with a batch in hand
        assert metric("catflap_ledger_errors_total", dependency="database") > before
        assert metric("catflap_ledger_lag_seconds") > 1e9
        assert await lengths(redis) == [48, 0, 0, 0]  # nothing leaves Redis before it is committed
    finally:
        postgres_server.start()
    await database.holds(49)
    stop.set()
    await running
    assert await drain(ledger) == []
    assert metric("catflap_ledger_lag_seconds") == 0
    assert ("ledger_waits", {"dependency": "database", "error": "OperationalError"}) in lines.said
    await database.close()


async def test_caught_up_means_no_lag(sqlite: Database, redis: Redis) -> None:
    ledger = ledger_of(redis, sqlite)
    await append(redis, 0, [make_event(1)], ids="1000-0")  # a stream entry of 1970
    await ledger.round()
    assert metric("catflap_ledger_lag_seconds") > 1e9
    await ledger.round()
    assert metric("catflap_ledger_lag_seconds") == 0


async def test_a_stop_ends_the_ledger_between_two_batches(sqlite: Database, redis: Redis) -> None:
    stop = asyncio.Event()
    database = WatchedDatabase(sqlite)
    running = asyncio.create_task(ledger_of(redis, database, block_ms=20).run(stop))
    await append(redis, 0, [make_event(1)])
    await database.holds(1)
    stop.set()
    await asyncio.wait_for(running, 5)
    await append(redis, 0, [make_event(2)])
    assert await lengths(redis) == [1, 0, 0, 0]


async def test_a_cancelled_ledger_ends_even_where_the_driver_loses_the_cancellation(
    sqlite: Database, redis: Redis
) -> None:
    class Lossy(Database):
        """Does what psycopg was seen to do."""

        def __init__(self, database: Database) -> None:
            super().__init__(database.engine)
            self.waits = asyncio.Event()

        @asynccontextmanager
        async def write(self) -> AsyncIterator[AsyncConnection]:
            self.waits.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise OperationalError("insert", {}, ValueError("consuming input failed")) from None
            yield await sqlite.engine.connect()

    database = Lossy(sqlite)
    await append(redis, 0, [make_event(1)])
    running = asyncio.create_task(ledger_of(redis, database).run(asyncio.Event()))
    await database.waits.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 5)
