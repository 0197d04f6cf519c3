"""An organisation's epoch in Redis: when it changes, every gateway drops what it remembers of that organisation's keys.

Admission brings it back with each request (one round trip, nothing more), so a revoked key stops at its next request.
"""

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.core.ids import partition_of
from gateway.quota.keys import epoch_key

LIFE_S = 30 * 24 * 3600  # far above any cache's life: once no gateway remembers anything, no epoch is needed

BUMP = """
-- KEYS[1] the epoch   ARGV[1] its life in seconds
-- Microseconds of Redis's clock, and always above the last: where the clock stepped back the same epoch must not come
-- twice. Below 2^53, so Lua's doubles hold it exactly.
local time = redis.call('TIME')
local epoch = tonumber(time[1]) * 1000000 + tonumber(time[2])
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
if epoch <= last then epoch = last + 1 end
local text = string.format('%.0f', epoch)
redis.call('SET', KEYS[1], text, 'EX', ARGV[1])
return text
"""


async def bump_epoch(redis: Redis, organisation: str, partitions: int) -> int:
    """Give the organisation (an id) an epoch that it never had; returns it. Raises redis.exceptions.RedisError."""
    key = epoch_key(partition_of(organisation, partitions), organisation)
    return int(await redis.eval(BUMP, 1, key, str(LIFE_S)))


async def tell_gateways(redis: Redis, organisation: str, partitions: int) -> bool:
    """Whether the organisation's epoch could be changed. If not, gateways go on with what they remember of it until
    their cache's life is over."""
    try:
        await bump_epoch(redis, organisation, partitions)
    except (RedisError, OSError, TimeoutError):
        return False
    return True
