"""Settlements that Redis has answered and then lost: the outbox sends them again, until the ledger has them."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.quota import keys
from gateway.quota.client import connect_redis
from gateway.quota.connection import RedisConnection, Script
from gateway.quota.keys import confirmed_key
from gateway.quota.open import open_redis
from gateway.quota.outbox import Outbox, entry_id
from tests.support.eventually import eventually
from tests.support.redis import RedisServer, redis_binary
from tests.support.redis_cluster import RedisCluster

PARTITION = 3
# What the settle script replies, and no more.
RECORD = Script(
    """
    local born = redis.call('HGET', KEYS[1], 'born')
    if not born then
      local time = redis.call('TIME')
      born = time[1] * 1000000 + time[2]
      redis.call('HSET', KEYS[1], 'born', string.format('%.0f', born))
    end
    local entry = redis.call('XADD', KEYS[2], '*', 'e', ARGV[1])
    return {1, entry, tonumber(born)}
    """
)
KEYS = (keys.clock_key(PARTITION), keys.events_key(PARTITION))


@asynccontextmanager
async def outbox_on(url: str) -> AsyncIterator[tuple[Outbox, RedisConnection, Redis]]:
    connection, client = RedisConnection(url), connect_redis(url, timeout_s=2)
    await connection.start()
    try:
        yield Outbox(connection, script=RECORD), connection, client
    finally:
        await connection.close(0.5)
        await client.aclose()


async def recorded(client: Redis) -> set[bytes]:
    entries: Any = await client.xrange(KEYS[1])
    return {fields[b"e"] for _, fields in entries}


async def post(outbox: Outbox, names: list[str]) -> list[Any]:
    """Settle, and wait for the replies."""
    heard: list[Any] = []
    for name in names:
        outbox.post(PARTITION, name, KEYS, (name,), heard.append)
    await eventually(lambda: len(heard) == len(names), what="the replies")
    return heard


async def test_what_the_ledger_has_confirmed_is_forgotten_and_nothing_else(redis_url: str) -> None:
    async with outbox_on(redis_url) as (outbox, _, client):
        heard = await post(outbox, ["a", "b", "c"])
        assert len(heard) == len(outbox) == 3
        await client.set(confirmed_key(PARTITION), heard[1][1])
        await outbox.look()
        assert len(outbox) == 1
        await client.set(confirmed_key(PARTITION), heard[2][1])
        await outbox.look()
        assert len(outbox) == 0
        assert await client.xlen(KEYS[1]) == 3, "nothing is sent again without need"


async def test_a_flush_is_noticed_without_any_request_and_everything_unconfirmed_is_recorded_again(
    redis_url: str,
) -> None:
    names = [f"req{number}" for number in range(1000)]
    async with outbox_on(redis_url) as (outbox, connection, client):
        await post(outbox, names)
        await client.flushall()
        await outbox.look()  # sees that the partition is gone
        await connection.ping()
        assert await recorded(client) == {name.encode() for name in names}
        await outbox.look()
        assert await client.xlen(KEYS[1]) == len(names), "what was recorded after the flush is not sent again"
        assert len(outbox) == len(names)


async def test_a_reply_that_tells_of_another_birth_sends_all_again(redis_url: str) -> None:
    async with outbox_on(redis_url) as (outbox, connection, client):
        await post(outbox, ["a", "b"])
        await client.flushall()
        await post(outbox, ["c"])
        assert await recorded(client) == {b"c"}
        await outbox.look()
        await connection.ping()
        assert sorted(await recorded(client)) == [b"a", b"b", b"c"]
        assert await client.xlen(KEYS[1]) == 3


async def test_a_redis_that_died_and_came_back_is_told_again_what_it_had_answered(redis_server: RedisServer) -> None:
    """It keeps nothing on disk here: the worst that a crash can do."""
    async with outbox_on(redis_server.url) as (outbox, connection, client):
        await post(outbox, ["answered"])
        redis_server.kill()
        await eventually(lambda: not connection.ready, what="the loss")
        outbox.post(PARTITION, "posted while away", KEYS, ("posted while away",))
        redis_server.start()
        await eventually(lambda: connection.ready, what="the connection")
        keeping = asyncio.create_task(outbox.keep_confirmed())

        async def both() -> bool:
            return await recorded(client) == {b"answered", b"posted while away"}

        await eventually(both, what="both settlements")
        keeping.cancel()


async def test_what_a_crash_took_from_the_end_is_sent_again_though_the_partition_is_as_old_as_before(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder, before = (Path(tmp_path_factory.mktemp(name)) for name in ("r", "b"))
    server = RedisServer(redis_binary(), folder, persist=True)
    server.start()
    async with outbox_on(server.url) as (outbox, connection, client):
        await post(outbox, ["on the disk"])
        shutil.copytree(folder, before, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))
        await post(outbox, ["not yet"])
        server.kill()
        await eventually(lambda: not connection.ready, what="the loss")
        shutil.rmtree(folder)
        shutil.copytree(before, folder)
        server.start()
        await eventually(lambda: connection.ready, what="the connection")
        assert await recorded(client) == {b"on the disk"}
        await outbox.look()
        await eventually(lambda: len(outbox) == 2, what="the replies")
        assert await recorded(client) == {b"on the disk", b"not yet"}
    server.stop()


async def test_a_master_of_a_cluster_that_came_back_empty_gets_its_partitions_settlements_again_and_only_it(
    redis_cluster: RedisCluster,
) -> None:
    connection = open_redis(redis_cluster.url)
    await connection.start()
    outbox, heard = Outbox(connection, script=RECORD), list[object]()
    streams = {number: keys.events_key(number) for number in range(12)}
    for number, stream in streams.items():
        for name in ("a", "b"):
            outbox.post(number, name, (keys.clock_key(number), stream), (name,), heard.append)
    await eventually(lambda: len(heard) == 24, what="the replies")
    lost = redis_cluster.masters[1]
    lost.kill()
    lost.start()
    keeping = asyncio.create_task(outbox.keep_confirmed())
    client = connect_redis(redis_cluster.url, timeout_s=2)

    async def everywhere() -> bool:
        try:
            return [await client.xlen(stream) for stream in streams.values()] == [2] * 12
        except RedisError:  # the node that came back needs a moment
            return False

    await eventually(everywhere, within_s=15, what="two entries in each stream")
    assert len(outbox) == 24
    keeping.cancel()
    await client.aclose()
    await connection.close(0.5)


async def test_a_ledger_that_stays_away_costs_bounded_memory_and_is_said(redis_url: str) -> None:
    dropped: list[int] = []
    connection = RedisConnection(redis_url)
    await connection.start()
    outbox = Outbox(connection, script=RECORD, limit=500, on_dropped=lambda: dropped.append(1))
    await post(outbox, [str(number) for number in range(2000)])
    assert len(outbox) <= 500
    assert len(outbox) + len(dropped) == 2000
    await connection.close()


def test_entry_ids_are_ordered_as_numbers() -> None:
    assert entry_id(b"9-9") < entry_id(b"10-1") < entry_id(b"10-2") < entry_id(b"10-10")
    assert entry_id(b"") == (0, 0)
