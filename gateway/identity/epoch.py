"""An organisation's epoch in Redis: when it changes, every gateway drops what it remembers of that organisation's keys.

Admission brings it back with each request (one round trip, nothing more), so a revoked key stops at its next request.
"""

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.core.ids import partition_of
from gateway.quota.keys import clock_key, epoch_key
from gateway.quota.scripts import BUMP

LIFE_S = 30 * 24 * 3600  # far above any cache's life: once no gateway remembers anything, no epoch is needed


async def bump_epoch(redis: Redis, organisation: str, partitions: int) -> int:
    """Give the organisation (an id) an epoch that it never had; returns it. Raises redis.exceptions.RedisError."""
    partition = partition_of(organisation, partitions)
    names = (epoch_key(partition, organisation), clock_key(partition))
    return int(await redis.eval(BUMP.text, len(names), *names, str(LIFE_S)))


async def tell_gateways(redis: Redis, organisation: str, partitions: int) -> bool:
    """Whether the organisation's epoch could be changed. If not, gateways go on with what they remember of it until
    their cache's life is over."""
    try:
        await bump_epoch(redis, organisation, partitions)
    except (RedisError, OSError, TimeoutError):
        return False
    return True
