"""The channel on which gateways hear that the ruleset in force has changed. What it is they read in the database."""

import asyncio
import itertools
from collections.abc import Callable
from typing import cast

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError

from gateway.quota.client import connect_listener, is_cluster

CHANNEL = "catflap:policies"
PING_S = 5.0
"""So long nothing is heard before the connection is tried."""
FIRST_S, LONGEST_S = 0.2, 5.0

AWAY = (RedisError, OSError, TimeoutError)


async def tell(redis: Redis, number: int) -> bool:
    """Whether the revision's number could be told. If not, gateways find it at their next look into the database."""
    try:
        if is_cluster(redis):
            return await _tell_one_of(cast(RedisCluster, redis), number)
        await redis.publish(CHANNEL, str(number))
    except AWAY:
        return False
    return True


async def _tell_one_of(cluster: RedisCluster, number: int) -> bool:
    """Publish at the first node that takes it: redis-py would insist on one, which may be the one that is dead."""
    await cluster.initialize()
    for node in cluster.get_nodes():
        try:
            await cluster.execute_command("PUBLISH", CHANNEL, str(number), target_nodes=node)
        except AWAY:
            continue
        return True
    return False


async def listen(url: str, timeout_s: float, heard: Callable[[], None], away: Callable[[str | None], None]) -> None:
    """For ever: `heard()` for each change, and whenever a connection begins, since something may have been missed.
    `away(kind of error)` when it is lost, `away(None)` when it is back. Any node of a Cluster will do."""
    wait_s = FIRST_S
    for turn in itertools.count():
        redis = connect_listener(url, timeout_s=timeout_s, turn=turn)
        pubsub = redis.pubsub()
        try:
            await pubsub.subscribe(CHANNEL)
            wait_s = FIRST_S
            away(None)
            heard()
            asked = False
            while True:
                message = await pubsub.get_message(timeout=timeout_s if asked else PING_S)
                if message is None and asked:
                    raise TimeoutError
                asked = message is None
                if message is None:
                    await pubsub.ping()
                elif message["type"] == "message":
                    heard()
        except AWAY as error:
            away(type(error).__name__)
        finally:
            await _close(pubsub, redis)
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 2, LONGEST_S)


async def _close(*opened: object) -> None:
    for each in opened:
        try:
            await each.aclose()  # type: ignore[attr-defined]
        except AWAY:
            continue
