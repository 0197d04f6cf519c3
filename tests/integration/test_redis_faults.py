"""One Redis, killed, paused and flushed while requests run: how long anybody waited, and what arrived."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.quota.connection import Script
from tests.support.eventually import eventually
from tests.support.redis import RedisServer
from tests.support.redis_load import ADD, SLACK_S, TIMEOUT_S, Load, connected, under_load


@pytest.fixture
def durable(any_redis_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that has lost nothing when it comes back."""
    server = RedisServer(any_redis_binary, Path(tmp_path_factory.mktemp("r")), persist=True)
    server.start()
    yield server
    server.stop()


def in_time(load: Load) -> None:
    print(f"longest call {load.longest * 1000:.0f} ms, {sum(load.failed.values())} failed")
    assert load.longest < TIMEOUT_S + SLACK_S, f"the longest call took {load.longest:.3f} s"


async def test_kill_9_under_load_makes_nobody_wait_and_loses_no_post(durable: RedisServer) -> None:
    async def kill(load: Load) -> None:
        for _ in range(2):
            durable.kill()
            await asyncio.sleep(0.7)
            durable.start()
            await eventually(lambda: load.connection.ready, what="the connection")
            await asyncio.sleep(0.3)

    async with connected(durable.url) as connection:
        load = await under_load(connection, kill)
        in_time(load)
        assert sum(load.failed.values()) > 100, "the load never met the outage"
        await load.all_arrived()


async def test_a_pause_under_load_costs_one_timeout_and_loses_no_post(durable: RedisServer) -> None:
    async def pause(load: Load) -> None:
        durable.pause()
        await asyncio.sleep(1.0)
        durable.resume()
        await eventually(lambda: load.connection.ready, what="the connection")
        await asyncio.sleep(0.3)

    async with connected(durable.url) as connection:
        load = await under_load(connection, pause)
        in_time(load)
        await load.all_arrived()


async def test_a_flush_under_load_is_noticed_by_no_caller(durable: RedisServer) -> None:
    async def flush(load: Load) -> None:
        for command in (b"FLUSHALL\r\n", b"SCRIPT FLUSH\r\n"):
            reader, writer = await asyncio.open_unix_connection(str(durable.socket))
            writer.write(command)
            assert await reader.readline() == b"+OK\r\n"
            writer.close()
            await asyncio.sleep(0.3)

    async with connected(durable.url) as connection:
        load = await under_load(connection, flush)
        in_time(load)
        assert not sum(load.failed.values())


async def test_a_redis_that_is_slow_but_talks_opens_the_breaker_until_it_has_caught_up(durable: RedisServer) -> None:
    heavy = Script("for _ = 1, 150 do redis.call('GET', KEYS[1]) end return redis.call('INCR', KEYS[1])")
    async with connected(durable.url) as connection:
        await connection.call(heavy, ["cf:{p0}:heavy"], [])
        since = connection.connected_since("k")
        for _ in range(8_000):
            connection.post(heavy, ["cf:{p0}:heavy"], [])
        load = Load(connection)
        running = asyncio.create_task(load.run())
        await eventually(lambda: not connection.ready, what="the breaker")
        await eventually(lambda: connection.ready, within_s=10, what="the probe")
        load.stop()
        await running
        in_time(load)
        assert connection.connected_since("k") == since, "it was not hung up on"
        await load.all_arrived()
        assert await connection.call(ADD, ["cf:{p0}:heavy"], [0]) == 8_001
