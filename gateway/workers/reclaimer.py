"""The reclaimer: ends the reservations of gateways that died, charging each for what it last reported."""

import asyncio
import re
from typing import cast

import msgspec
import structlog
from prometheus_client import Counter

from gateway.quota import keys
from gateway.quota.connection import RedisRefused, RedisUnavailable
from gateway.quota.keeper import settle_arguments
from gateway.quota.note import decode_note
from gateway.quota.open import open_redis
from gateway.quota.protocol import Connection
from gateway.quota.scripts import DROP, EXPIRED, SETTLE
from gateway.workers.backoff import pause

INTERVAL_S = 3.0
TIMEOUT_S = 2.0
BATCH = 200
_RESERVATION = re.compile(rb"^[^|]*\|(\d+)\|(\d+)\|(.*)$", re.DOTALL)


log = structlog.get_logger()
reclaimed_total = Counter("catflap_reservations_reclaimed", "Reservations ended because their gateway died")
errors_total = Counter("catflap_reclaimer_errors", "Rounds of the reclaimer that Redis did not answer")


async def run_reclaimer(redis_url: str, partitions: int, stop: asyncio.Event) -> None:
    """Look through all partitions every few seconds until `stop`; a Redis that is away is tried again."""
    connection = open_redis(redis_url, timeout_s=TIMEOUT_S)
    await connection.start()
    try:
        while not stop.is_set():
            await reclaim_all(connection, partitions)
            await pause(stop, INTERVAL_S)
    finally:
        await connection.close()


async def reclaim_all(connection: Connection, partitions: int) -> int:
    """One round; how many it ended. Some partitions may be away: the others' reservations end all the same."""
    ended, problem = 0, ""
    for partition in range(partitions):
        try:
            ended += await reclaim_partition(connection, partition)
        except (RedisUnavailable, RedisRefused) as found:
            problem = type(found).__name__
    if problem:
        errors_total.inc()
        log.warning("reclaimer_redis_unreachable", error=problem)
    return ended


async def reclaim_partition(connection: Connection, partition: int) -> int:
    """End every reservation of one partition whose lease has ended; how many there were. Raises RedisUnavailable or
    RedisRefused."""
    head = [keys.clock_key(partition), keys.held_key(partition), keys.lease_key(partition)]
    ended = 0
    while True:
        found = cast(list[bytes], await connection.call(EXPIRED, head, [BATCH]))
        now = 0
        for request, reservation in zip(found[::2], found[1::2], strict=True):
            now += await _end(connection, partition, request, reservation)
        ended += now
        if now == 0 or len(found) < 2 * BATCH:
            return ended


async def _end(connection: Connection, partition: int, request: bytes, reservation: bytes) -> int:
    """End one; 0 when its holder was alive after all, or when it cannot be ended and must not hold the others up."""
    match = _RESERVATION.match(reservation)
    try:
        note = decode_note(match[3]) if match else None
    except msgspec.DecodeError:
        note = None
    if match is None or note is None:
        log.error("reservation_unreadable", request=request.decode(errors="replace"))
        await connection.call(DROP, [keys.held_key(partition), keys.lease_key(partition)], [request])
        return 0
    finished = note.reclaimed(int(match[1]), int(match[2]))
    arguments = settle_arguments(partition, finished, note.limits, "expired")
    try:
        settled, *_ = cast(list[int], await connection.call(SETTLE, *arguments))
    except RedisRefused as problem:
        errors_total.inc()
        log.error("reservation_stuck", request=finished.request, error=str(problem).split(" ")[0])
        return 0
    if settled:
        reclaimed_total.inc()
        log.warning("reservation_reclaimed", request=finished.request, reserved_tokens=finished.reserved_tokens)
    return int(settled)
