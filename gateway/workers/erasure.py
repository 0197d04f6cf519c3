"""Erasure beyond the database: events of an erased principal that still wait for the ledger."""

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisClusterException, RedisError

from gateway.core import event
from gateway.core.event import RequestEvent
from gateway.identity.epoch import bump_epoch
from gateway.storage import erasure
from gateway.storage.database import Database
from gateway.storage.erasure import Erasure
from gateway.storage.ledger import ERASED
from gateway.telemetry import clock
from gateway.workers.entries import read_event
from gateway.workers.streams import START, Streams

BATCH = 1000


async def erase_everywhere(database: Database, redis: Redis, partitions: int, principal: str) -> Erasure | None:
    """Erase a principal from the database, tell the gateways, then erase what waits in Redis; None where nobody knows
    it. In this order: what comes meanwhile is booked under nobody's name. Where Redis is away, `told` is False: run it
    again. Raises sqlalchemy.exc.SQLAlchemyError."""
    done = await erasure.erase_principal(database, principal, clock.now_ms())
    if done is None:
        return None
    try:
        if done.organisation is not None:
            await bump_epoch(redis, done.organisation, partitions)
        done.pending = await erase_pending(Streams(redis, partitions), principal)
        done.told = True
    except (RedisError, RedisClusterException, OSError, TimeoutError):
        done.told = False
    return done


async def erase_pending(streams: Streams, principal: str) -> int:
    """Replace what waits now and names the principal; how many entries that was."""
    ends = [stream.newest for stream in await streams.look()]
    after = [START] * len(ends)
    replaced = 0
    while entries := await streams.read(after, BATCH, 1):
        for entry in entries:
            after[entry.partition] = max(after[entry.partition], entry.position)
            found = read_event(entry.body)
            if isinstance(found, RequestEvent) and found.principal == principal:
                body = event.encode(msgspec.structs.replace(found, **ERASED))
                replaced += await streams.replace(entry, body)
        if all(at >= end for at, end in zip(after, ends, strict=True) if end != START):
            break
    return replaced
