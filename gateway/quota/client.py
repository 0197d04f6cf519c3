"""Clients of redis-py for the slow paths (commands, workers, the admin plane), by the same URLs as the hot path."""

from typing import Any, cast

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from gateway.quota.address import Address, ClusterAddress, SentinelAddress, parse_redis_url

CLUSTER_TRIES = 3
"""A slot that has moved is found at the second; a client of a Cluster that gave up there would be of no use."""


def connect_redis(url: str, *, timeout_s: float) -> Redis:
    """A client that does not retry, and no wait in it is longer than `timeout_s`. Raises ValueError for a URL that is
    no use.

    Of a Cluster it is a RedisCluster, which has the same commands for keys of one slot; what spans slots (XREAD over
    all partitions, say) has to ask `is_cluster`.
    """
    address = parse_redis_url(url)
    match address:
        case ClusterAddress():
            return cast(Redis, _cluster(address, timeout_s))
        case SentinelAddress():
            return _master(address, timeout_s)
    return _single(address, timeout_s)


def connect_listener(url: str, *, timeout_s: float, turn: int = 0) -> Redis:
    """The same, to subscribe to channels. Of a Cluster it is a client of one node that the URL names, another one each
    `turn`: what is published at one node arrives at all."""
    address = parse_redis_url(url)
    if isinstance(address, ClusterAddress):
        return _single(address.seeds[turn % len(address.seeds)], timeout_s)
    return connect_redis(url, timeout_s=timeout_s)


def is_cluster(client: Redis) -> bool:
    """Whether keys of several slots must be asked for one by one."""
    return isinstance(cast(object, client), RedisCluster)


def _single(address: Address, timeout_s: float) -> Redis:
    place: dict[str, Any] = {"host": address.host, "port": address.port, **_tls(address)}
    if address.path is not None:
        place = {"unix_socket_path": address.path}
    return Redis(**place, db=address.database, **_manner(address, timeout_s))


class _Master(Redis):
    """Closes its Sentinels' connections with its own."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        await cast(SentinelConnectionPool, self.connection_pool).sentinel_manager.aclose()


def _master(address: SentinelAddress, timeout_s: float) -> Redis:
    sentinels = address.sentinels
    own = {**_manner(sentinels[0], timeout_s), **_tls(sentinels[0])}
    sentinel = Sentinel([(one.host, one.port) for one in sentinels], sentinel_kwargs=own)  # type: ignore[no-untyped-call]
    manner = {**_manner(address.master, timeout_s), **_tls(address.master)}
    return cast(Redis, sentinel.master_for(address.name, _Master, db=address.master.database, **manner))


def _cluster(address: ClusterAddress, timeout_s: float) -> RedisCluster:
    seeds = [ClusterNode(one.host, one.port) for one in address.seeds]
    manner = {**_manner(address.seeds[0], timeout_s), "retry": Retry(NoBackoff(), CLUSTER_TRIES)}
    return RedisCluster(startup_nodes=seeds, require_full_coverage=False, **_tls(address.seeds[0]), **manner)


def _manner(address: Address, timeout_s: float) -> dict[str, Any]:
    return {
        "username": address.username,
        "password": address.password,
        "protocol": 2,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }


def _tls(address: Address) -> dict[str, Any]:
    return {"ssl": True} if address.tls else {}
