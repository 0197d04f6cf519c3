"""One Redis, killed, paused and flushed while requests run: how long anybody waited, and what arrived."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from gateway.quota.client import connect_redis
from gateway.quota.connection import RedisUnavailable
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


async def test_a_redis_that_takes_no_writes_fails_calls_at_once_and_gets_what_was_posted_later(
    durable: RedisServer,
) -> None:
    client = connect_redis(durable.url, timeout_s=2)
    loop = asyncio.get_running_loop()
    async with connected(durable.url) as connection:
        assert await connection.call(ADD, ["cf:{p0}:k"], [1]) == 1
        openings = opened("not now")
        await client.config_set("maxmemory", "1")
        connection.post(ADD, ["cf:{p0}:k"], [10])
        began = loop.time()
        for _ in range(50):
            with pytest.raises(RedisUnavailable):
                await connection.call(ADD, ["cf:{p0}:k"], [100])
        assert loop.time() - began < TIMEOUT_S + SLACK_S, "all of them together"
        assert opened("not now") > openings
        await client.config_set("maxmemory", "0")
        await eventually(lambda: connection.ready, what="the probe")
        await eventually(lambda: connection.call(ADD, ["cf:{p0}:k"], [0]), what="an answer")
        assert await client.get("cf:{p0}:k") == b"11"
    await client.aclose()


async def test_the_metric_of_open_breakers_tells_how_many_connections_fail_at_once(durable: RedisServer) -> None:
    before = breakers_open()
    async with connected(durable.url) as connection:
        assert breakers_open() == before
        durable.kill()
        await eventually(lambda: not connection.ready, what="the loss")
        assert breakers_open() == before + 1
        durable.start()
        await eventually(lambda: connection.ready, what="the connection")
        assert breakers_open() == before
    async with connected("unix:///nonexistent/redis.sock"):
        assert breakers_open() == before + 1
    assert breakers_open() == before


def opened(cause: str) -> float:
    return REGISTRY.get_sample_value("catflap_redis_breaker_openings_total", {"cause": cause}) or 0.0


def breakers_open() -> float:
    return REGISTRY.get_sample_value("catflap_redis_breakers_open") or 0.0
