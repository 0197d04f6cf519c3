"""A real Sentinel with a master and its replica, on both versions of Redis."""

import asyncio

import pytest
from redis import Redis

from gateway.quota.address import SentinelAddress, parse_redis_url
from gateway.quota.connection import RedisUnavailable
from gateway.quota.sentinel import Sentinels
from tests.support.eventually import eventually
from tests.support.redis_load import ADD, ONCE, SLACK_S, TIMEOUT_S, Load, connected, under_load
from tests.support.redis_sentinel import DOWN_AFTER_MS, SentinelSet

FAILOVER_S = 10.0


async def test_a_killed_master_is_replaced_and_requests_fail_at_once_until_then(sentinel_set: SentinelSet) -> None:
    loop = asyncio.get_running_loop()
    away: list[float] = []
    meanwhile: dict[str, int] = {}

    async def kill(load: Load) -> None:
        sentinel_set.master.kill()
        began, posted = loop.time(), dict(load.posted)
        before = dict(load.answered)
        await eventually(
            lambda: all(load.answered[key] > before[key] + 5 for key in load.keys), within_s=FAILOVER_S, what="service"
        )
        away.append(loop.time() - began)
        meanwhile.update({key: load.posted[key] - posted[key] for key in load.keys})

    async with connected(sentinel_set.url) as connection:
        load = await under_load(connection, kill)
        print(f"failover after {away[0]:.1f} s, longest call {load.longest * 1000:.0f} ms")
        assert away[0] > DOWN_AFTER_MS / 1000, "the old master was dead; only the new one can have answered"
        assert load.longest < TIMEOUT_S + SLACK_S, f"the longest call took {load.longest:.3f} s"
        for key in load.keys:

            async def arrived(key: str = key) -> bool:
                return load.posted[key] - await load.done(key) <= 1  # the tail that was not replicated yet

            await eventually(arrived, within_s=10, what=f"the posts for {key}")


async def test_a_master_that_is_demoted_while_it_lives_is_left_for_the_new_one(sentinel_set: SentinelSet) -> None:
    async with connected(sentinel_set.url) as connection:
        assert await connection.call(ADD, ["k"], [1]) == 1
        await asyncio.to_thread(sentinel_set.fail_over)

        async def on_the_new_one() -> bool:
            connection.post(ONCE, ["once", "done"], [])
            try:
                await connection.call(ADD, ["k"], [1])
            except RedisUnavailable:
                return False
            with Redis(port=sentinel_set.replica.port, protocol=2) as client:
                return bool(client.info("replication")["role"] == "master" and client.get("done") == b"1")

        await eventually(on_the_new_one, within_s=FAILOVER_S, what="the change to the new master")


async def test_a_server_that_became_a_replica_behind_our_back_is_left_after_its_first_answer(
    sentinel_set: SentinelSet,
) -> None:
    async with connected(sentinel_set.url) as connection:
        assert await connection.call(ADD, ["k"], [1]) == 1
        with sentinel_set.sentinel.client() as client:
            client.execute_command("SENTINEL", "REMOVE", "catflap-main")  # so that nobody mends it
        with sentinel_set.master.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", sentinel_set.replica.port)
        with pytest.raises(RedisUnavailable):
            await connection.call(ADD, ["k"], [1])
        connection.post(ONCE, ["once", "done"], [])
        assert not connection.ready, "nobody else is sent there"
        with sentinel_set.replica.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")
            port = sentinel_set.replica.port
        with sentinel_set.sentinel.client() as client:
            client.execute_command("SENTINEL", "MONITOR", "catflap-main", "127.0.0.1", str(port), "1")
        await eventually(lambda: connection.ready, what="the new master")
        with sentinel_set.replica.client() as client:
            await eventually(lambda: client.get("done") == b"1", what="what was posted to nobody")


async def test_what_the_sentinels_do_not_know_is_said(sentinel_set: SentinelSet) -> None:
    address = parse_redis_url(sentinel_set.url.replace("catflap-main", "other"))
    assert isinstance(address, SentinelAddress)
    with pytest.raises(RedisUnavailable, match="no Sentinel names a master"):
        await Sentinels(address).master()


async def test_a_sentinel_that_is_gone_is_passed_over(sentinel_set: SentinelSet) -> None:
    with_dead = sentinel_set.url.replace("//", "//127.0.0.1:1,")
    for _ in range(2):  # whichever is asked first
        async with connected(with_dead) as connection:
            assert await connection.call(ADD, ["k"], [1]) is not None
    address = parse_redis_url(with_dead)
    assert isinstance(address, SentinelAddress)
    sentinels = Sentinels(address)
    assert (await sentinels.master()).port == (await sentinels.master()).port == sentinel_set.master.port
