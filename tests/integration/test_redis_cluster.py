"""A real Cluster of three masters, on both versions of Redis, while slots move and masters die."""

import asyncio

import pytest
from prometheus_client import REGISTRY

from gateway.quota.cluster import slot_of
from gateway.quota.connection import RedisUnavailable
from tests.support.eventually import eventually
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_load import ADD, ONCE, SLACK_S, TIMEOUT_S, Load, connected, under_load


def redirects(kind: str) -> float:
    return REGISTRY.get_sample_value("catflap_redis_redirects_total", {"kind": kind}) or 0.0


async def test_every_partition_is_served_by_its_master(redis_cluster: RedisCluster) -> None:
    async with connected(redis_cluster.url) as connection:
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

    async def move(load: Load) -> None:
        redis_cluster.begin_move(slot, source, target)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(redis_cluster.end_move, slot, source, target)
        settled = load.answered[key]
        await eventually(lambda: load.answered[key] > settled + 5, what="service of the moved slot")

    async with connected(redis_cluster.url) as connection:
        load = await under_load(connection, move)
        await load.all_arrived()
    assert load.longest < TIMEOUT_S + SLACK_S, f"the longest call took {load.longest:.3f} s"
    assert sum(load.failed.values()) == load.failed[key], "the other partitions noticed nothing"
    with target.client() as client:
        assert int(client.get(f"{key}calls")) >= load.answered[key]


async def test_a_slot_on_its_way_is_asked_for_where_the_key_is(redis_cluster: RedisCluster) -> None:
    slot = slot_of("{p7}")
    source, (target,) = redis_cluster.node_of(slot), redis_cluster.spares
    async with connected(redis_cluster.url) as connection:
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


async def test_a_redirection_to_a_node_that_does_not_answer_costs_no_more_than_the_timeout(
    redis_cluster: RedisCluster,
) -> None:
    slot, (target,) = slot_of("{p7}"), redis_cluster.spares
    source, loop = redis_cluster.node_of(slot), asyncio.get_running_loop()
    async with connected(redis_cluster.url) as connection:
        redis_cluster.begin_move(slot, source, target)
        redis_cluster.end_move(slot, source, target)
        target.pause()  # nobody here has heard of it yet
        moved = redirects("moved")
        connection.post(ADD, ["{p7}posted"], [1])
        for _ in range(3):
            began = loop.time()
            with pytest.raises(RedisUnavailable):
                await connection.call(ADD, ["{p7}x"], [1])
            assert loop.time() - began < TIMEOUT_S + SLACK_S
        assert redirects("moved") > moved
        target.resume()

        async def posted() -> bool:
            try:
                return await connection.call(ADD, ["{p7}posted"], [0]) == 1
            except RedisUnavailable:
                return False

        await eventually(posted, what="the post, and service")


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

    async with connected(redis_cluster.url) as connection:
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

    async with connected(redis_cluster.url) as connection:
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
    async with connected(redis_cluster.url) as connection:
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
