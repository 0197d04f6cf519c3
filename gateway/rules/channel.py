"""The channel on which gateways hear that the ruleset in force has changed. What it is they read in the database."""

import asyncio
from collections.abc import Callable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.quota.client import connect_redis

CHANNEL = "catflap:policies"
PING_S = 5.0
"""So long nothing is heard before the connection is tried."""
FIRST_S, LONGEST_S = 0.2, 5.0

AWAY = (RedisError, OSError, TimeoutError)


async def tell(redis: Redis, number: int) -> bool:
    """Whether the revision's number could be told. If not, gateways find it at their next look into the database."""
    try:
        await redis.publish(CHANNEL, str(number))
    except AWAY:
        return False
    return True


async def listen(url: str, timeout_s: float, heard: Callable[[], None], away: Callable[[str | None], None]) -> None:
    """For ever: `heard()` for each change, and whenever a connection begins, since something may have been missed.
    `away(kind of error)` when it is lost, `away(None)` when it is back. Any node of a Cluster will do."""
    wait_s = FIRST_S
    while True:
        redis = connect_redis(url, timeout_s=timeout_s)
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
