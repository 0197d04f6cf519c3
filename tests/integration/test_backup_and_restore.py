"""Backup and restore as docs/operations.md says it, on both databases, with a real Redis and the ledger at work."""

import asyncio
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.commands.events import line_of
from gateway.core.event import RequestEvent
from gateway.quota.client import connect_redis
from gateway.quota.keys import events_key
from gateway.storage import events
from gateway.storage.database import Database, connect
from gateway.storage.migrate import require_head
from gateway.storage.rows import event_of
from gateway.workers.budgets import Budgets
from gateway.workers.imports import Imported, import_events
from gateway.workers.ledger import Ledger
from gateway.workers.streams import Streams
from tests.support.books import audit, totals
from tests.support.events import make_event
from tests.support.eventually import eventually
from tests.support.ledger import append, booked
from tests.support.missing import missing
from tests.support.postgres import PostgresServer, postgres_binaries
from tests.support.redis import RedisServer, redis_binary

PARTITIONS = 2
Restore = Callable[[Path], str]


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = connect_redis(redis_server.url, timeout_s=5)
    yield client
    await client.aclose()


@pytest.fixture
def restore(database_url: str, request: pytest.FixtureRequest, tmp_path: Path) -> Restore:
    """A backup as a database of its own: its URL."""
    if database_url.startswith("sqlite"):
        return lambda backup: f"sqlite:///{shutil.copy(backup, tmp_path / 'restored.db')}"
    server: PostgresServer = request.getfixturevalue("postgres_server")

    def restored(backup: Path) -> str:
        url = server.fresh()
        subprocess.run([tool("pg_restore"), "--no-owner", "--exit-on-error", "-d", url, backup], check=True)
        return url

    return restored


def tool(name: str) -> str:
    beside = postgres_binaries() / name
    return str(beside) if beside.exists() else shutil.which(name) or missing(name)


def back_up(url: str, backup: Path) -> Path:
    """While everything runs: SQLite's online backup, or pg_dump."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as source, closing(sqlite3.connect(backup)) as to:
            source.backup(to)
    else:
        subprocess.run([tool("pg_dump"), "--format=custom", "-f", backup, url], check=True)
    return backup


def ledger_of(redis: Redis, database: Database) -> Ledger:
    return Ledger(Streams(redis, PARTITIONS), Budgets(redis), database, PARTITIONS, batch=20, block_ms=5, linger_s=0.01)


async def drain(ledger: Ledger) -> None:
    while await ledger.round():
        pass
    await ledger.check()


def made(start: int, end: int) -> list[RequestEvent]:
    return [make_event(number, cost=number) for number in range(start, end)]


def tokens(events: list[RequestEvent]) -> dict[str, int]:
    return {one.request: 15 for one in events}


async def test_redis_first_then_the_database_and_nothing_is_lost_or_doubled(
    database_url: str, redis_server: RedisServer, redis: Redis, restore: Restore, tmp_path: Path
) -> None:
    database, stop = connect(database_url), asyncio.Event()
    running = asyncio.create_task(ledger_of(redis, database).run(stop))
    await append(redis, 0, made(0, 50))
    await eventually(lambda: has(database, 30), what="the first batches")
    await append(redis, 1, made(50, 300))
    await redis.save()
    dump = shutil.copy(redis_server.socket.with_name("dump.rdb"), tmp_path / "redis.rdb")
    await append(redis, 0, made(300, 400))
    backup = await asyncio.to_thread(back_up, database_url, tmp_path / "database.backup")
    await append(redis, 0, made(400, 500))
    stop.set()
    await running
    await database.close()

    folder = tmp_path / "redis"  # another machine
    folder.mkdir()
    shutil.copy(dump, folder / "dump.rdb")
    server = RedisServer(redis_binary(), folder)
    server.start()
    client, restored = connect_redis(server.url, timeout_s=5), connect(restore(backup))
    await require_head(restored)
    in_backup = await booked(restored)
    await drain(ledger_of(client, restored))
    found = await booked(restored)
    assert found == tokens(made(0, 300)) | in_backup  # what either of them had, once
    await audit(restored)
    await append(client, 0, made(500, 510))
    await drain(ledger_of(client, restored))
    assert await booked(restored) == found | tokens(made(500, 510))
    assert [await client.xlen(events_key(p)) for p in range(PARTITIONS)] == [0, 0]
    await client.aclose()
    await restored.close()
    server.stop()


async def test_a_database_that_is_moved_goes_on_with_what_waited_in_redis(
    database_url: str, redis: Redis, restore: Restore, tmp_path: Path
) -> None:
    database = connect(database_url)
    await append(redis, 0, made(0, 70))
    ledger = ledger_of(redis, database)
    await ledger.round()
    await ledger.round()
    backup = back_up(database_url, tmp_path / "database.backup")  # the ledger is stopped, clients go on
    await append(redis, 1, made(70, 100))
    restored = connect(restore(backup))
    await drain(ledger_of(redis, restored))
    assert await booked(restored) == tokens(made(0, 100))
    assert (await totals(restored))["cost"] == sum(range(100))
    await audit(restored)
    await database.close()
    await restored.close()


async def test_an_older_backup_is_made_whole_from_an_export(
    database_url: str, redis: Redis, restore: Restore, tmp_path: Path
) -> None:
    database = connect(database_url)
    await append(redis, 0, made(0, 20))
    await drain(ledger_of(redis, database))
    backup = back_up(database_url, tmp_path / "database.backup")
    await append(redis, 0, made(20, 45))
    await drain(ledger_of(redis, database))
    pages = events.pages(database, since_ms=0, until_ms=2**62)
    exported = [line_of(event_of(row)) async for page in pages for row in page]
    await database.close()
    restored = connect(restore(backup))
    assert await import_events(restored, exported) == Imported(booked=25, known=20)
    assert await booked(restored) == tokens(made(0, 45))
    await audit(restored)
    await restored.close()


async def has(database: Database, number: int) -> bool:
    return len(await booked(database)) >= number
