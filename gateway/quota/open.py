"""The hot path's connection, by the URL of Redis."""

from collections.abc import Callable

from gateway.quota.address import ClusterAddress, SentinelAddress, parse_redis_url
from gateway.quota.cluster import ClusterConnection
from gateway.quota.connection import RedisConnection
from gateway.quota.protocol import Connection
from gateway.quota.sentinel import Sentinels


def open_redis(url: str, *, timeout_s: float = 0.1, on_dropped: Callable[[], None] = lambda: None) -> Connection:
    """The connection, not started. `on_dropped`: a posted command was lost. Raises ValueError for a URL that is no use.

    Needs a running event loop.
    """
    address = parse_redis_url(url)
    match address:
        case ClusterAddress():
            return ClusterConnection(address, timeout_s=timeout_s, on_dropped=on_dropped)
        case SentinelAddress():
            return RedisConnection(Sentinels(address).master, timeout_s=timeout_s, on_dropped=on_dropped)
    return RedisConnection(address, timeout_s=timeout_s, on_dropped=on_dropped)
