"""The slow paths' clients, by the same URLs: on a Cluster and behind a Sentinel."""

import pytest

from gateway.core.caller import Caller
from gateway.core.delta import Usage
from gateway.core.reservation import Reservation
from gateway.identity.epoch import bump_epoch
from gateway.limits.plans import Limit
from gateway.limits.weights import Weights
from gateway.quota import keys
from gateway.quota.client import connect_redis, is_cluster
from gateway.quota.keeper import Quota
from gateway.quota.open import open_redis
from gateway.workers.reclaimer import reclaim_all
from tests.support.events import make_event
from tests.support.eventually import eventually
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_sentinel import SentinelSet

PARTITIONS = 16


async def test_on_a_cluster_the_hot_path_reserves_and_the_slow_paths_see_it(redis_cluster: RedisCluster) -> None:
    connection, client = open_redis(redis_cluster.url, timeout_s=1), connect_redis(redis_cluster.url, timeout_s=2)
    assert is_cluster(client)
    await connection.start()
    quota = Quota(connection, PARTITIONS, lease_ms=1)
    organisations = [f"org_{number}" for number in range(40)]
    for number, organisation in enumerate(organisations):
        caller = Caller(organisation=organisation, project="proj_1", principal="prin_1", key="key_1", plan="free")
        subject = f"key_{number}"
        limits = (Limit("tokens_per_minute", "key", subject, "tokens", 1000, 60_000, 1000, None, Weights()),)
        event = make_event(number, outcome="reclaimed")
        admitted = await quota.admit(caller, limits, Usage(400, 100), event, Usage(), Weights())
        assert isinstance(admitted, Reservation)
        assert await bump_epoch(client, organisation, PARTITIONS) == await quota.epoch(organisation)

    async def all_reclaimed() -> bool:
        await reclaim_all(connection, PARTITIONS)
        return not any([await client.hlen(keys.held_key(partition)) for partition in range(PARTITIONS)])

    await eventually(all_reclaimed, what="the reclaimer")
    streams = [await client.xlen(keys.events_key(partition)) for partition in range(PARTITIONS)]
    assert sum(streams) == len(organisations)
    await client.aclose()
    await connection.close()


async def test_the_reclaimer_ends_what_it_can_while_a_master_is_away(redis_cluster: RedisCluster) -> None:
    connection = open_redis(redis_cluster.url, timeout_s=1)
    await connection.start()
    quota = Quota(connection, PARTITIONS, lease_ms=1)
    for number in range(40):
        caller = Caller(organisation=f"org_{number}", project="p", principal="p", key=f"key_{number}", plan="free")
        event = make_event(number, outcome="reclaimed")
        assert await quota.admit(caller, (), Usage(400, 100), event, Usage(), Weights())
    redis_cluster.masters[0].kill()
    assert await reclaim_all(connection, PARTITIONS) > 0
    for master in redis_cluster.masters[1:]:
        with master.client() as direct:
            assert not direct.keys("*:held")
    await connection.close(0.1)


async def test_behind_a_sentinel_the_client_speaks_to_the_master(sentinel_set: SentinelSet) -> None:
    client = connect_redis(sentinel_set.url, timeout_s=2)
    assert not is_cluster(client)
    await client.set("k", "v")
    with sentinel_set.master.client() as direct:
        assert direct.get("k") == b"v"
    await client.aclose()


def test_a_url_that_is_no_use_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="must end in the name of the master"):
        connect_redis("redis+sentinel://h:1", timeout_s=1)
