"""Roll-ups and spend: each request counts once, whoever reads it, in whatever order, and however often."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import text

from gateway.core.event import RequestEvent
from gateway.limits.budget import month_of
from gateway.quota.client import connect_redis
from gateway.storage import budgets, tables
from gateway.storage.budgets import spent
from gateway.storage.database import Database, connect
from gateway.storage.migrate import migrate
from gateway.workers.budgets import Budgets
from gateway.workers.ledger import Ledger
from gateway.workers.streams import START, Streams
from tests.support.books import audit, totals
from tests.support.events import make_event
from tests.support.ledger import append
from tests.support.redis import RedisServer

PARTITIONS = 2
NOVEMBER_END = 1_764_547_200_000  # 2025-12-01T00:00Z


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = connect_redis(redis_server.url, timeout_s=5)
    yield client
    await client.aclose()


def ledger_of(redis: Redis, database: Database, batch: int = 100) -> Ledger:
    return Ledger(Streams(redis, PARTITIONS), Budgets(redis), database, PARTITIONS, batch=batch, block_ms=1)


async def drain(ledger: Ledger) -> None:
    while await ledger.round():
        pass


requests = st.builds(
    make_event,
    st.integers(0, 6),
    project=st.sampled_from(["proj_1", "proj_2"]),
    principal=st.sampled_from(["prin_1", "prin_2"]),
    key=st.sampled_from(["key_1", "key_2", "prin_1"]),  # an issuer may name both alike
    model=st.sampled_from(["small", "large"]),
    region=st.sampled_from([None, "north"]),
    outcome=st.sampled_from(["completed", "reclaimed", "cancelled"]),
    at_ms=st.sampled_from([0, 3_599_999, 3_600_000, NOVEMBER_END - 1, NOVEMBER_END]),
    prompt_tokens=st.integers(0, 9),
    cached_tokens=st.integers(0, 9),
    cost=st.integers(0, 9),
    kv_cost=st.integers(0, 3),
)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(events=st.lists(requests, max_size=20), batch=st.integers(1, 9), again=st.lists(st.booleans(), max_size=8))
async def test_in_any_order_and_read_again_at_any_time_everything_counts_once(
    redis_server: RedisServer, sqlite_url: str, events: list[RequestEvent], batch: int, again: list[bool]
) -> None:
    redis, database = connect_redis(redis_server.url, timeout_s=5), connect(sqlite_url)
    await redis.flushall()
    async with database.write() as connection:
        for table in (tables.request_event, tables.usage_hour, tables.usage_day, tables.spend):
            await connection.execute(table.delete())
    for number, made in enumerate(events):
        await append(redis, number % PARTITIONS, [made])
    streams = Streams(redis, PARTITIONS)
    ledger = Ledger(streams, Budgets(redis), database, PARTITIONS, batch=batch, block_ms=1)
    for twice in again:
        if twice:  # killed between commit and trim: the next one reads the same batch
            await ledger._commit(await streams.read([START] * PARTITIONS, batch, 1))
            await audit(database)
        await ledger.round()
        await audit(database)
    await drain(ledger)
    await audit(database)
    assert (await totals(database))["requests"] == len({made.request for made in events})
    await redis.aclose()
    await database.close()


async def test_the_difference_counts_when_a_settlement_replaces_a_reclaimers_estimate(
    database: Database, redis: Redis
) -> None:
    estimate = make_event(1, outcome="reclaimed", completion_tokens=2, cost=20, kv_cost=1, cached_tokens=4)
    defence = {"beyond_prompt_tokens": 40, "beyond_completion_tokens": 1, "beyond_cost": 60}
    settled = make_event(
        1, completion_tokens=9, cost=90, kv_cost=3, cached_tokens=8, region="north", contained=True, **defence
    )
    await append(redis, 0, [estimate])
    await drain(ledger_of(redis, database))
    month, _ = month_of(settled.at_ms)
    assert await spent(database, [("org_1", ""), ("key_1", "demo")], month) == [20, 20]
    await append(redis, 0, [settled, estimate, settled])
    await drain(ledger_of(redis, database))
    expected = {"requests": 1, "prompt_tokens": 10, "cached_tokens": 8, "completion_tokens": 9, "cost": 90}
    contained = {"contained_requests": 1, "contained_cost": 90, **defence}
    assert await totals(database) == {**expected, "kv_cost": 3, **contained}
    assert await spent(database, [("org_1", ""), ("key_1", "demo")], month) == [90, 90]
    await audit(database)


async def test_two_ledgers_that_read_the_same_entries_count_them_once(database_url: str, redis: Redis) -> None:
    estimates = [make_event(number, cost=1, outcome="reclaimed") for number in range(0, 90, 3)]
    await append(redis, 0, [*estimates, *(make_event(number, cost=number) for number in range(90)), *estimates])
    databases = [connect(database_url), connect(database_url)]
    entries = await Streams(redis, PARTITIONS).read([START] * PARTITIONS, 1000, 1)
    both = [ledger_of(redis, database) for database in databases]
    writes = [ledger._commit(entries[i : i + 30]) for i in range(0, len(entries), 30) for ledger in both]
    await asyncio.gather(*writes)
    await audit(databases[0])
    found = await totals(databases[0])
    assert found["requests"] == 90
    assert found["cost"] == sum(range(90))
    for database in databases:
        await database.close()


async def test_spend_is_kept_by_subject_model_and_calendar_month(database: Database, redis: Redis) -> None:
    made = [
        make_event(1, at_ms=NOVEMBER_END - 1, cost=3),
        make_event(2, at_ms=NOVEMBER_END, cost=5),
        make_event(3, at_ms=NOVEMBER_END, cost=7, model="large", key="key_2"),
    ]
    await append(redis, 0, made)
    await drain(ledger_of(redis, database))
    assert await spent(database, [("org_1", ""), ("org_1", "demo")], 202511) == [3, 3]
    wanted = [("org_1", ""), ("proj_1", "large"), ("prin_1", "demo"), ("key_2", ""), ("key_1", "large"), ("nobody", "")]
    assert await spent(database, wanted, 202512) == [12, 7, 5, 7, 0, 0]
    assert await spent(database, [], 202512) == []


async def test_what_was_spent_is_looked_up_by_primary_key_and_never_summed(sqlite: Database) -> None:
    said: list[tuple[str, object]] = []

    def hear(_c: object, _cu: object, statement: str, parameters: object, _x: object, _m: object) -> None:
        said.append((statement, parameters))

    sqlalchemy_event.listen(sqlite.engine.sync_engine, "before_cursor_execute", hear)
    await spent(sqlite, [(f"subject_{number}", "") for number in range(16)], 202511)
    [(statement, parameters)] = [(one, values) for one, values in said if "spend" in one]
    assert "sum(" not in statement.lower()
    async with sqlite.read() as connection:
        plan = await connection.exec_driver_sql(f"explain query plan {statement}", parameters)  # type: ignore[arg-type]
        steps = [str(row.detail) for row in plan if "spend" in row.detail]
    assert steps == ["SEARCH spend USING INDEX sqlite_autoindex_spend_1 (subject=? AND model=? AND month=?)"]


async def test_postgresql_looks_it_up_by_primary_key_too(postgres_url: str) -> None:
    migrate(postgres_url)
    database = connect(postgres_url)
    async with database.write() as connection:
        rows = [{"subject": f"s{number}", "model": "", "month": 202511, "cost": number} for number in range(5000)]
        await connection.execute(tables.spend.insert(), rows)
        await connection.execute(text("analyze spend"))
    assert await spent(database, [("s7", ""), ("s4999", "")], 202511) == [7, 4999]
    async with database.read() as connection:
        where = "subject in ('s1', 's2') and model in ('') and month in (202511)"
        plan = await connection.execute(text(f"explain select * from spend where {where}"))
        assert "pk_spend" in "\n".join(row[0] for row in plan)
    await database.close()


def test_a_statement_holds_no_more_values_than_sqlite_takes() -> None:
    assert budgets.AT_ONCE * 3 < 32_766
