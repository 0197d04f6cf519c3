"""A real Cluster of three masters, on both versions of Redis, while slots move and masters die."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from prometheus_client import REGISTRY

from gateway.quota.cluster import slot_of
from gateway.quota.connection import RedisUnavailable, Script
from gateway.quota.open import open_redis
from gateway.quota.protocol import Connection
from tests.support.eventually import eventually
from tests.support.redis_cluster import RedisCluster

ADD = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
ONCE = Script("if redis.call('SETNX', KEYS[1], 1) == 1 then redis.call('INCR', KEYS[2]) end return 1")
TIMEOUT_S = 0.1
SLACK_S = 0.1  # two cores, shared: the loop itself may be late


@asynccontextmanager
async def connected(cluster: RedisCluster) -> AsyncIterator[Connection]:
    connection = open_redis(cluster.url, timeout_s=TIMEOUT_S)
    await connection.start()
    try:
        yield connection
    finally:
        await connection.close(0.5)


class Load:
    """Calls and posts on all partitions, one after the other, until it is stopped; and what became of them."""

    def __init__(self, connection: Connection, partitions: int = 32) -> None:
        self.connection = connection
        self.keys = [f"cf:{{p{number}}}:" for number in range(partitions)]
        self.longest = 0.0
        self.answered = dict.fromkeys(self.keys, 0)
        self.failed = dict.fromkeys(self.keys, 0)
        self.posted = dict.fromkeys(self.keys, 0)
        self._stop = False

    async def run(self) -> None:
        await asyncio.gather(*(self._run(key) for key in self.keys))

    def stop(self) -> None:
        self._stop = True

    async def _run(self, key: str) -> None:
        loop = asyncio.get_running_loop()
        while not self._stop:
            began = loop.time()
            try:
                await self.connection.call(ADD, [f"{key}calls"], [1])
                self.answered[key] += 1
            except RedisUnavailable:
                self.failed[key] += 1
            self.longest = max(self.longest, loop.time() - began)
            self.posted[key] += 1
            self.connection.post(ONCE, [f"{key}{self.posted[key]}", f"{key}done"], [])
            await asyncio.sleep(0.02)

    async def done(self, key: str) -> int:
        """How many of the posts for this partition have been carried out, each counted once."""
        try:
            return int(str(await self.connection.call(ADD, [f"{key}done"], [0])))
        except RedisUnavailable:
            return -1

    async def all_arrived(self) -> None:
        for key in self.keys:

            async def arrived(key: str = key) -> bool:
                return await self.done(key) == self.posted[key]

            await eventually(arrived, within_s=10, what=f"every post for {key}")


async def under_load(connection: Connection, act: Callable[[Load], Awaitable[None]]) -> Load:
    """`act` while requests run; the load when it is over, and all that was posted has arrived."""
    load = Load(connection)
    running = asyncio.create_task(load.run())
    await asyncio.sleep(0.2)
    try:
        await act(load)
    finally:
        load.stop()
        await running
    return load


def redirects(kind: str) -> float:
    return REGISTRY.get_sample_value("catflap_redis_redirects_total", {"kind": kind}) or 0.0


async def test_every_partition_is_served_by_its_master(redis_cluster: RedisCluster) -> None:
    async with connected(redis_cluster) as connection:
        replies = await asyncio.gather(*(connection.call(ADD, [f"cf:{{p{i}}}:x"], [i]) for i in range(64)))
        assert replies == list(range(64))
        await connection.ping()
    for number in range(64):
        key = f"cf:{{p{number}}}:x"
        with redis_cluster.node_of(slot_of(key)).client() as client:
            assert client.get(key) == str(number).encode()


async def test_a_slot_that_moves_while_requests_run_loses_nothing_and_nobody_waits_longer(
    redis_cluster: RedisCluster,
) -> None:
    key = "cf:{p7}:"
    slot = slot_of(key)
    source = redis_cluster.node_of(slot)
    (target,) = redis_cluster.spares
    moved = redirects("moved")

    async def move(load: Load) -> None:
        redis_cluster.begin_move(slot, source, target)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(redis_cluster.end_move, slot, source, target)
        settled = load.answered[key]
        await eventually(lambda: load.answered[key] > settled + 5, what="service of the moved slot")

    async with connected(redis_cluster) as connection:
        load = await under_load(connection, move)
        await load.all_arrived()
    assert redirects("moved") > moved
    assert load.longest < TIMEOUT_S + SLACK_S, f"the longest call took {load.longest:.3f} s"
    assert sum(load.failed.values()) == load.failed[key], "the other partitions noticed nothing"
    with target.client() as client:
        assert int(client.get(f"{key}calls")) >= load.answered[key]


async def test_a_slot_on_its_way_is_asked_for_where_the_key_is(redis_cluster: RedisCluster) -> None:
    slot = slot_of("{p7}")
    source, (target,) = redis_cluster.node_of(slot), redis_cluster.spares
    async with connected(redis_cluster) as connection:
        assert await connection.call(ADD, ["{p7}old"], [1]) == 1
        redis_cluster.begin_move(slot, source, target)
        asked = redirects("ask")
        assert await connection.call(ADD, ["{p7}old"], [1]) == 2
        assert await connection.call(ADD, ["{p7}new"], [5]) == 5
        assert redirects("ask") == asked + 1
        with pytest.raises(RedisUnavailable):  # one key here, one there: nobody can do that now
            await connection.call(ONCE, ["{p7}another", "{p7}old"], [])
        connection.post(ONCE, ["{p7}another", "{p7}old"], [])
        await asyncio.to_thread(redis_cluster.end_move, slot, source, target)

        async def posted() -> bool:
            return await connection.call(ADD, ["{p7}old"], [0]) == 3

        await eventually(posted, what="the post")
    with target.client() as client:
        assert client.get("{p7}old") == b"3"


async def test_a_dead_master_fails_only_its_partitions_and_what_was_posted_arrives_when_it_is_back(
    redis_cluster: RedisCluster,
) -> None:
    dead = redis_cluster.masters[1]
    meanwhile: dict[str, int] = {}

    async def kill(load: Load) -> None:
        hit = [key for key in load.keys if redis_cluster.node_of(slot_of(key)) is dead]
        dead.kill()
        posted = dict(load.posted)
        await asyncio.sleep(1.5)
        meanwhile.update({key: load.posted[key] - posted[key] for key in hit})
        dead.start()
        before = {key: load.answered[key] for key in hit}
        await eventually(
            lambda: all(load.answered[key] > before[key] for key in hit), within_s=10, what="service of all slots"
        )

    async with connected(redis_cluster) as connection:
        load = await under_load(connection, kill)
        assert meanwhile and all(load.failed[key] > 10 for key in meanwhile)
        assert not [key for key, failures in load.failed.items() if failures and key not in meanwhile]
        assert load.longest < TIMEOUT_S + SLACK_S, f"the longest call took {load.longest:.3f} s"
        for key, posted in meanwhile.items():  # its memory is gone: what was done before the kill is not asked for

            async def arrived(key: str = key, posted: int = posted) -> bool:
                return await load.done(key) >= posted

            await eventually(arrived, within_s=10, what=f"what was posted for {key} meanwhile")


@pytest.mark.slow
async def test_a_killed_master_is_replaced_by_its_replica_and_nothing_that_was_kept_is_lost(
    redis_cluster: RedisCluster,
) -> None:
    master, (replica,) = redis_cluster.masters[0], redis_cluster.spares
    await asyncio.to_thread(redis_cluster.replicate, replica, master)
    loop = asyncio.get_running_loop()
    away: list[float] = []

    async def kill(load: Load) -> None:
        hit = [key for key in load.keys if redis_cluster.node_of(slot_of(key)) is master]
        master.kill()
        began, before = loop.time(), {key: load.answered[key] for key in hit}
        await eventually(
            lambda: all(load.answered[key] > before[key] + 5 for key in hit), within_s=15, what="the failover"
        )
        away.append(loop.time() - began)

    async with connected(redis_cluster) as connection:
        load = await under_load(connection, kill)
        print(f"failover after {away[0]:.1f} s, longest call {load.longest * 1000:.0f} ms")
        assert load.longest < TIMEOUT_S + SLACK_S, f"the longest call took {load.longest:.3f} s"
        for key in load.keys:

            async def arrived(key: str = key) -> bool:
                return load.posted[key] - await load.done(key) <= 1  # the tail that was not replicated yet

            await eventually(arrived, within_s=10, what=f"the posts for {key}")


async def test_a_paused_master_fails_its_calls_in_time_and_then_at_once(redis_cluster: RedisCluster) -> None:
    paused = redis_cluster.masters[2]
    loop = asyncio.get_running_loop()
    async with connected(redis_cluster) as connection:
        keys = [f"cf:{{p{i}}}:x" for i in range(64) if redis_cluster.node_of(slot_of(f"{{p{i}}}")) is paused]
        paused.pause()
        began = loop.time()
        with pytest.raises(RedisUnavailable):
            await connection.call(ADD, [keys[0]], [1])
        assert loop.time() - began < TIMEOUT_S + SLACK_S
        began = loop.time()
        for key in keys:
            with pytest.raises(RedisUnavailable):
                await connection.call(ADD, [key], [1])
        assert loop.time() - began < 0.05
        assert connection.ready
        await connection.ping()
        paused.resume()

        async def served() -> bool:
            try:
                return bool(await connection.call(ADD, [keys[0]], [1]))
            except RedisUnavailable:
                return False

        await eventually(served, what="service after the pause")
