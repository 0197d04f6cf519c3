"""Erasure of a principal's personal data, on both databases, in Redis, and while the ledger runs."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import typer
from redis.asyncio import Redis
from sqlalchemy import select
from typer.testing import CliRunner, Result

from gateway.commands.erase import erase
from gateway.core import event
from gateway.core.event import RequestEvent
from gateway.core.facts import ClientFacts, Facts, Roll
from gateway.core.ids import partition_of
from gateway.core.record import Record
from gateway.identity.issue import IssuedKey, issue_key, show_key
from gateway.identity.regard import contain
from gateway.limits.budget import month_of
from gateway.quota.client import connect_redis
from gateway.quota.keys import epoch_key, events_key
from gateway.storage import erasure, ledger
from gateway.storage.budgets import spent
from gateway.storage.database import Database, connect
from gateway.storage.rows import row_of
from gateway.storage.tables import METADATA, canary, evidence, evidence_reading, principal_limit, regard_change
from gateway.workers.budgets import Budgets
from gateway.workers.erasure import erase_everywhere, erase_pending
from gateway.workers.imports import import_events
from gateway.workers.ledger import Ledger
from gateway.workers.streams import Streams
from tests.support.books import audit, totals
from tests.support.databases import PEPPER
from tests.support.events import make_event
from tests.support.eventually import eventually
from tests.support.ledger import append
from tests.support.redis import RedisServer

PARTITIONS = 2


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = connect_redis(redis_server.url, timeout_s=5)
    yield client
    await client.aclose()


async def person(database: Database, name: str = "Ann Example") -> IssuedKey:
    return await issue_key(
        database, PEPPER, organisation="acme", project="web", principal=name, plan="free", name=f"{name}'s laptop"
    )


def event_of(key: IssuedKey, number: int, **fields: Any) -> RequestEvent:
    who = {name: getattr(key.record, name) for name in ("organisation", "project", "principal")}
    return make_event(number, key=key.record.id, end_user=f"user of {key.record.principal}", cost=7, **who, **fields)


async def book(database: Database, *events: RequestEvent) -> None:
    async with database.write() as connection:
        await ledger.book(connection, [row_of(one) for one in events])


def ledger_of(redis: Redis, database: Database, batch: int = 500) -> Ledger:
    return Ledger(Streams(redis, PARTITIONS), Budgets(redis), database, PARTITIONS, batch=batch, block_ms=1)


async def everything(database: Database, redis: Redis) -> str:
    """All that is written anywhere, as text."""
    found = []
    async with database.read() as connection:
        for table in METADATA.sorted_tables:
            found += [str(tuple(row)) for row in await connection.execute(select(table))]
    for partition in range(PARTITIONS):
        found.append(str(await redis.xrange(events_key(partition))))
    return "\n".join(found)


async def test_nothing_names_the_person_afterwards_and_the_sums_stay(database: Database, redis: Redis) -> None:
    ann, ben = await person(database), await person(database, "Ben")
    await book(database, *(event_of(ann, number) for number in range(5)), *(event_of(ben, 10 + n) for n in range(3)))
    partition = partition_of(ann.record.organisation, PARTITIONS)
    await append(redis, partition, [event_of(ann, 20), event_of(ben, 21), event_of(ann, 22)])
    reject = {
        "partition": 0,
        "entry": "1-1",
        "reason": "r",
        "body": event.encode(event_of(ann, 23)),
        "rejected_at_ms": 1,
    }
    async with database.write() as connection:
        await ledger.keep_rejects(connection, [reject])
        own = {"principal_id": ann.record.principal, "measure": "requests", "per": "minute", "model": "", "limit": 9}
        await connection.execute(principal_limit.insert().values(**own, changed_at_ms=1))  # refers to her row
    before = await totals(database)

    done = await erase_everywhere(database, redis, PARTITIONS, ann.record.principal)
    assert done == erasure.Erasure(ann.record.principal, ann.record.organisation, 1, 5, 1, pending=2, told=True)
    left = await everything(database, redis)
    for name in (ann.record.principal, ann.record.id, "Ann", f"user of {ann.record.principal}"):
        assert name not in left
    assert ben.record.id in left
    assert await totals(database) == before
    await audit(database)
    assert await show_key(database, ann.record.id) is None
    assert await redis.exists(epoch_key(partition, ann.record.organisation))
    month, _ = month_of(make_event(1).at_ms)
    wanted = [(ann.record.organisation, ""), (ann.record.principal, ""), (ann.record.id, ""), ("prin_erased", "")]
    assert await spent(database, wanted, month) == [8 * 7, 0, 0, 5 * 7]

    await ledger_of(redis, database).round()
    assert (await totals(database))["requests"] == 11
    await audit(database)


async def test_what_was_kept_of_a_contained_principal_goes_too_and_nothing_of_others(
    database: Database, redis: Redis
) -> None:
    ann, ben = await person(database), await person(database, "Ben")
    told = Record(facts=Facts(client=ClientFacts(ip="192.0.2.7", user_agent="anns-agent/1")), roll=Roll(), ruleset="r")
    bens = Record(facts=Facts(client=ClientFacts(ip="192.0.2.8")), roll=Roll(), ruleset="r")
    for who in (ann, ben):
        await contain(database, redis, PARTITIONS, who.record.principal, author="op", reason="test")
        named = {"principal": who.record.principal, "at_ms": 1}
        async with database.write() as connection:
            phrase = {"principal": named["principal"], "words": '["a"]', "first_at_ms": 1, "last_at_ms": 1}
            await connection.execute(canary.insert().values(**phrase))
            kept = {"request": f"req_{named['principal']}"[:20], "organisation": who.record.organisation, **named}
            await connection.execute(evidence.insert().values(**kept, expires_at_ms=2, body=b"sealed"))
            reading = {"request": kept["request"], "reader": "op", "reason": "r", **named}
            await connection.execute(evidence_reading.insert().values(**reading))
    await book(database, event_of(ann, 1, record=told), event_of(ben, 2, record=bens))
    await append(redis, partition_of(ann.record.organisation, PARTITIONS), [event_of(ann, 3, record=told)])
    assert await erase_everywhere(database, redis, PARTITIONS, ann.record.principal)
    left = await everything(database, redis)
    for trace in (ann.record.principal, "192.0.2.7", "anns-agent"):
        assert trace not in left
    assert "192.0.2.8" in left
    async with database.read() as connection:
        for table in (regard_change, canary, evidence):
            assert len((await connection.execute(select(table))).all()) == 1
        readers = (await connection.execute(select(evidence_reading.c.principal))).scalars().all()
    assert set(readers) == {"prin_erased", ben.record.principal}


async def test_what_comes_late_from_anywhere_is_booked_under_nobodys_name(database: Database, redis: Redis) -> None:
    ann = await person(database)
    await book(database, event_of(ann, 1, outcome="reclaimed"))
    await erase_everywhere(database, redis, PARTITIONS, ann.record.principal)
    await append(redis, 0, [event_of(ann, 1, completion_tokens=50), event_of(ann, 2)])  # kept by a gateway
    await ledger_of(redis, database).round()
    await import_events(database, [event.encode(event_of(ann, 3))])  # exported before
    assert ann.record.principal not in await everything(database, redis)
    assert (await totals(database))["completion_tokens"] == 60
    await audit(database)


async def test_erasing_again_finishes_what_was_left_and_changes_nothing_else(
    database: Database, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = await person(database)
    monkeypatch.setattr(erasure, "AT_ONCE", 2)
    await book(database, *(event_of(ann, number, outcome="reclaimed") for number in range(5)))

    async def killed(*_: object) -> int:
        raise RuntimeError("killed")

    with monkeypatch.context() as death, pytest.raises(RuntimeError):
        death.setattr(erasure, "rename_events", killed)
        await erase_everywhere(database, redis, PARTITIONS, ann.record.principal)
    await book(database, event_of(ann, 1, completion_tokens=50))  # a settlement for an event not renamed yet
    found = await erase_everywhere(database, redis, PARTITIONS, ann.record.principal)
    assert found is not None
    assert found.events == 4
    await audit(database)
    again = await erase_everywhere(database, redis, PARTITIONS, ann.record.principal)
    assert again == erasure.Erasure(ann.record.principal, None, told=True)
    assert await erase_everywhere(database, redis, PARTITIONS, "prin_unheard_of") is None
    await audit(database)


@pytest.mark.parametrize("moment", range(3))
async def test_erasing_while_the_ledger_runs_loses_nothing_and_leaves_nothing(
    database: Database, redis: Redis, moment: int
) -> None:
    ann = await person(database)
    partition = partition_of(ann.record.organisation, PARTITIONS)
    stop = asyncio.Event()
    running = asyncio.create_task(ledger_of(redis, database, batch=7).run(stop))
    for number in range(90):
        await append(redis, partition, [event_of(ann, number)])
        if number == 30 * moment:
            erasing = asyncio.create_task(erase_everywhere(database, redis, PARTITIONS, ann.record.principal))
    await erasing

    async def is_read() -> bool:
        return await redis.xlen(events_key(partition)) == 0

    await eventually(is_read, what="the end of the stream")
    stop.set()
    await running
    assert ann.record.principal not in await everything(database, redis)
    assert (await totals(database))["requests"] == 90
    await audit(database)


async def test_an_entry_that_the_ledger_took_meanwhile_is_not_put_back(redis: Redis) -> None:
    await append(redis, 0, [make_event(1), make_event(2)])
    streams = Streams(redis, PARTITIONS)
    [first, _] = await streams.read([(0, 0)] * PARTITIONS, 10, 1)
    await streams.confirm({0: first.position})
    assert not await streams.replace(first, b"{}")
    assert await redis.xlen(events_key(0)) == 1
    assert await erase_pending(streams, "prin_1") == 1


def test_the_command_wants_to_be_sure_and_says_what_it_did(
    sqlite_url: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATFLAP_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("CATFLAP_REDIS_URL", redis_server.url)
    monkeypatch.setenv("CATFLAP_PARTITIONS", str(PARTITIONS))
    app = typer.Typer()
    app.command()(erase)

    def catflap(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    async def made() -> str:
        database = connect(sqlite_url)
        key = await person(database)
        await database.close()
        return key.record.principal

    principal = asyncio.run(made())
    unsure = catflap(principal)
    assert unsure.exit_code == 2
    assert "--yes" in unsure.stderr
    done = catflap(principal, "--yes", "--json")
    assert json.loads(done.stdout)["keys"] == 1
    unknown = catflap("prin_unheard_of", "--yes")
    assert (unknown.exit_code, unknown.stderr) == (
        1,
        "There is no principal 'prin_unheard_of', and no record of one.\n",
    )
    redis_server.pause()
    monkeypatch.setattr("gateway.commands.erase.REDIS_TIMEOUT_S", 0.1)
    away = catflap(principal, "--yes")
    redis_server.resume()
    assert away.exit_code == 0
    assert "Redis could not be reached" in away.stderr
