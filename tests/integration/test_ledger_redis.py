"""What the ledger writes to Redis: confirmed entries, raised budgets; on 6.2 and 7.0, alone and in a cluster."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from gateway.quota import keys
from gateway.quota.client import connect_redis, is_cluster
from gateway.quota.connection import Script
from gateway.quota.scripts import CONFIRM, REPLACE, RESTORE
from gateway.storage.budgets import Account
from gateway.storage.database import Database
from gateway.workers import ledger as room
from gateway.workers.budgets import AT_ONCE, LEAVE_ALONE, MOST, Budgets
from gateway.workers.ledger import Ledger, Outage
from gateway.workers.streams import Streams
from lab.ports import free_ports
from tests.support.books import audit, totals
from tests.support.events import make_event
from tests.support.ledger import append, booked
from tests.support.redis import RedisServer
from tests.support.redis_cluster import RedisCluster

PARTITIONS = 8
MONTH = 202311  # of make_event's instants


@pytest.fixture
async def redis(any_redis_binary: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Redis]:
    server = RedisServer(any_redis_binary, tmp_path_factory.mktemp("r"))
    server.start()
    client = connect_redis(server.url, timeout_s=5)
    yield client
    await client.aclose()
    server.stop()


@pytest.fixture
async def cluster(redis_cluster: RedisCluster) -> AsyncIterator[Redis]:
    client = connect_redis(redis_cluster.url, timeout_s=5)
    yield client
    await client.aclose()


def ledger_of(redis: Redis, database: Database, batch: int = 500, **more: Any) -> Ledger:
    streams, budgets = Streams(redis, PARTITIONS), Budgets(redis)
    return Ledger(streams, budgets, database, PARTITIONS, batch=batch, block_ms=1, **more)


async def drain(ledger: Ledger) -> None:
    while await ledger.round():
        pass


async def set_budget(redis: Redis, name: str, month: int, used: int, partition: int = 0) -> str:
    key = keys.budget_key(partition, "org_1", name)
    await redis.hset(key, mapping={"month": month, "used": used})
    await redis.pexpire(key, 60_000)
    return key


async def raise_to(redis: Redis, booked: int, *names: str) -> int:
    names = (keys.clock_key(0), *names)
    return int(
        await redis.eval(RESTORE.text, len(names), *names, str(MONTH), LEAVE_ALONE, *[str(booked)] * (len(names) - 1))
    )


async def test_raise_lifts_a_budget_of_that_month_and_never_lowers_one(redis: Redis) -> None:
    low, high = await set_budget(redis, "low", MONTH, 5), await set_budget(redis, "high", MONTH, 50)
    other = await set_budget(redis, "other", MONTH + 1, 5)
    assert await raise_to(redis, 20, low, high, other, keys.budget_key(0, "org_1", "none")) == 1
    assert await redis.hmget(low, "month", "used") == [str(MONTH).encode(), b"20"]
    assert [await redis.hget(key, "used") for key in (high, other)] == [b"50", b"5"]
    assert not await redis.exists(keys.budget_key(0, "org_1", "none"))
    assert await redis.pttl(low) > 0
    assert await raise_to(redis, 20, low) == 0


@pytest.mark.parametrize("script", [CONFIRM, REPLACE])
async def test_the_scripts_refuse_keys_and_arguments_that_do_not_fit(redis: Redis, script: Script) -> None:
    for given in ((1, "k"), (1, "k", "a"), (2, "k", "k", "a", "b"), (3, "k", "k", "k", "a", "b", "c")):
        with pytest.raises(ResponseError, match="KEYS and ARGV do not fit"):
            await redis.eval(script.text, *given)


async def test_what_is_committed_is_noted_before_it_goes_and_the_note_never_goes_down(
    sqlite: Database, redis: Redis
) -> None:
    await append(redis, 3, [make_event(1), make_event(2)], ids="*")
    entries: Any = await redis.xrange(keys.events_key(3))
    [first, last] = [name for name, _ in entries]
    ledger, streams = ledger_of(redis, sqlite), Streams(redis, PARTITIONS)
    await drain(ledger)
    assert await redis.get(keys.confirmed_key(3)) == last
    assert await redis.xlen(keys.events_key(3)) == 0
    assert await redis.pttl(keys.confirmed_key(3)) > 3_600_000
    ms, _, seq = first.decode().partition("-")
    await streams.confirm({3: (int(ms), int(seq))})  # another ledger, slower
    assert await redis.get(keys.confirmed_key(3)) == last
    assert await redis.keys("*confirmed") == [keys.confirmed_key(3).encode()]


async def test_a_note_of_a_stream_that_is_lost_is_taken_back(sqlite: Database, redis: Redis) -> None:
    ledger = ledger_of(redis, sqlite)
    await append(redis, 0, [make_event(1)], ids=f"{2**45}-0")
    await drain(ledger)
    await redis.delete(keys.events_key(0))
    await append(redis, 0, [make_event(2)], ids="5-0")
    await ledger.check()
    assert await redis.get(keys.confirmed_key(0)) is None
    await drain(ledger)
    assert await redis.get(keys.confirmed_key(0)) == b"5-0"


async def test_each_commit_raises_the_budgets_of_its_subjects(database: Database, redis: Redis) -> None:
    await append(redis, 2, [make_event(1, cost=30)])
    await drain(ledger_of(redis, database))
    whole = await set_budget(redis, "cost_per_month", MONTH, 1, partition=2)
    demo = await set_budget(redis, "cost_per_month@demo", MONTH, 1000, partition=2)
    large = await set_budget(redis, "cost_per_month@large", MONTH, 1, partition=2)
    elsewhere = await set_budget(redis, "cost_per_month", MONTH, 1, partition=1)
    await append(redis, 2, [make_event(2, cost=12), make_event(3, cost=0, model="large")])
    await drain(ledger_of(redis, database))
    assert [await redis.hget(key, "used") for key in (whole, demo, large, elsewhere)] == [b"42", b"1000", b"1", b"1"]
    assert len(await redis.keys("*budget*")) == 4


async def test_an_event_that_costs_nothing_raises_the_budgets_that_its_reservation_has_left(
    sqlite: Database, redis: Redis
) -> None:
    ledger = ledger_of(redis, sqlite)
    await append(redis, 0, [make_event(1, cost=70)])
    await drain(ledger)
    budget = await set_budget(redis, "cost_per_month", MONTH, 12)  # Redis has lost a second
    await append(redis, 0, [make_event(2, outcome="reclaimed", prompt_tokens=0, completion_tokens=0)])
    await drain(ledger)
    assert await redis.hget(budget, "used") == b"70"


async def test_budgets_are_raised_by_the_next_ledger_when_one_dies_after_its_commit(
    sqlite: Database, redis: Redis
) -> None:
    budget = await set_budget(redis, "cost_per_month", MONTH, 0)
    await append(redis, 0, [make_event(1, cost=30)])
    entries = await Streams(redis, PARTITIONS).read([(0, 0)] * PARTITIONS, 10, 1)
    await ledger_of(redis, sqlite)._commit(entries)
    assert await redis.hget(budget, "used") == b"0"
    await drain(ledger_of(redis, sqlite))
    assert await redis.hget(budget, "used") == b"30"


async def test_many_budgets_are_raised_in_pieces_and_one_that_cannot_be_stops_nobody(redis: Redis) -> None:
    accounts = {Account(f"key_{number}", "", MONTH): 10**18 for number in range(2 * AT_ONCE + 1)}
    for account in accounts:
        await redis.hset(keys.budget_key(0, account.subject, "cost_per_month"), mapping={"month": MONTH, "used": 1})
    await redis.set(keys.budget_key(0, "key_3", "cost_per_month"), "of another kind")
    with capture_logs() as said:
        await Budgets(redis).raise_to({0: accounts})
    assert [line["event"] for line in said] == ["budgets_not_raised"]
    for subject in ("key_250", "key_400"):
        assert await redis.hget(keys.budget_key(0, subject, "cost_per_month"), "used") == str(MOST).encode()


async def test_on_a_cluster_every_partition_is_read_confirmed_and_raised(database: Database, cluster: Redis) -> None:
    made = {p: [make_event(100 * p + n, cost=1) for n in range(30)] for p in range(PARTITIONS)}
    budgets = [await set_budget(cluster, "cost_per_month", MONTH, 0, partition=p) for p in range(PARTITIONS)]
    assert is_cluster(cluster)
    for partition, events in made.items():
        await append(cluster, partition, events)
    ledger = ledger_of(cluster, database, batch=40)
    await ledger.check()
    assert room.backlog._value.get() == 30 * PARTITIONS
    await drain(ledger)
    assert len(await booked(database)) == 30 * PARTITIONS
    assert (await totals(database))["cost"] == 30 * PARTITIONS
    await audit(database)
    for partition in range(PARTITIONS):
        assert await cluster.xlen(keys.events_key(partition)) == 0
        assert await cluster.get(keys.confirmed_key(partition)) is not None
    # a commit raises to what is booked by then: the last one of each partition comes after all, or nearly
    raised = [int(await cluster.hget(name, "used") or 0) for name in budgets]
    assert max(raised) == 30 * PARTITIONS
    await ledger.check()
    assert room.backlog._value.get() == 0


async def test_a_ledger_waits_on_a_cluster_without_spinning_and_wakes_for_any_partition(
    sqlite: Database, cluster: Redis
) -> None:
    streams = Streams(cluster, PARTITIONS)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await streams.read([(0, 0)] * PARTITIONS, 100, 300) == []
    assert loop.time() - began >= 0.3
    waiting = asyncio.create_task(streams.read([(0, 0)] * PARTITIONS, 100, 10_000))
    await asyncio.sleep(0.1)
    await append(cluster, 5, [make_event(1)])
    assert [entry.partition for entry in await asyncio.wait_for(waiting, 5)] == [5]


async def test_a_minute_without_a_ledger_costs_nothing_but_the_wait(database: Database, redis: Redis) -> None:
    """Shortened: what comes in a minute, without the minute."""
    written = [make_event(number, cost=2) for number in range(3000)]
    for start in range(0, 3000, 500):
        await append(redis, start % PARTITIONS, written[start : start + 500])
    ledger = ledger_of(redis, database, batch=2000)
    await ledger.look()
    assert room.backlog._value.get() == 3000
    await drain(ledger)
    await ledger.look()
    assert room.backlog._value.get() == 0
    assert await booked(database) == {made.request: 15 for made in written}
    await audit(database)


async def test_a_stream_that_is_full_says_so_before_anything_is_taken_off(sqlite: Database, redis: Redis) -> None:
    ledger = ledger_of(redis, sqlite, most_entries=40)
    for number in range(60):
        await redis.xadd(keys.events_key(1), {"e": b"{}"}, maxlen=40, approximate=False, id=f"1-{number + 1}")
    with capture_logs() as said:
        await ledger.look()
        assert room.fullest._value.get() == 40
        await drain(ledger)
        await ledger.look()
    assert [line["event"] for line in said if line["event"] == "ledger_streams_full"] == ["ledger_streams_full"]


async def test_a_cluster_that_is_away_is_an_outage_and_no_hang(sqlite: Database) -> None:
    [port] = free_ports(1)
    client = connect_redis(f"redis+cluster://127.0.0.1:{port}", timeout_s=0.2)
    with pytest.raises(Outage, match="redis"):
        await asyncio.wait_for(ledger_of(client, sqlite).round(), 10)
    await client.aclose()
