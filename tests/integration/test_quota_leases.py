"""A long request keeps its reservation as long as its gateway lives, and its progress is known if it dies."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from gateway.core.caller import Caller
from gateway.core.delta import Usage
from gateway.core.reservation import Reservation
from gateway.limits.plans import Limit
from gateway.limits.weights import ONE_REQUEST, Weights
from gateway.quota import keys
from gateway.quota.connection import RedisConnection
from gateway.quota.keeper import Quota
from gateway.workers.reclaimer import reclaim_partition
from tests.support.events import make_event
from tests.support.eventually import eventually

LEASE_MS = 600
CALLER = Caller(organisation="org_1", project="proj_1", principal="prin_1", key="key_1", plan="free")
LIMITS = (
    Limit("tokens_per_minute", "key", "key_1", "tokens", 1000, 60_000, 1000, None, Weights()),
    Limit("concurrency", "key", "key_1", "concurrency", 5, 0, 0, None, ONE_REQUEST),
)
CEILING, PRICE = Usage(400, 100), Weights()


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[RedisConnection]:
    made = RedisConnection(redis_url, timeout_s=1)
    await made.start()
    yield made
    await made.close()


async def test_a_request_longer_than_its_lease_is_renewed_with_its_progress_until_its_gateway_dies(
    connection: RedisConnection, redis_url: str
) -> None:
    client = redis.asyncio.from_url(redis_url)
    quota, usage, event = Quota(connection, 1, lease_ms=LEASE_MS), Usage(), make_event(1, outcome="reclaimed")
    admitted = await quota.admit(CALLER, LIMITS, CEILING, event, usage, PRICE)
    assert isinstance(admitted, Reservation)
    renewing = asyncio.create_task(quota.keep_leases())
    usage.prompt_tokens, usage.completion_tokens = 7, 3
    ended = asyncio.get_running_loop().time() + 3 * LEASE_MS / 1000
    while asyncio.get_running_loop().time() < ended:
        assert await reclaim_partition(connection, 0) == 0
        assert (await quota.look(CALLER, LIMITS))[1][1].remaining == 4, "its slot is gone"
        await asyncio.sleep(0.05)
    assert "|7|3|" in str(await client.hget(keys.held_key(0), event.request))
    renewing.cancel()  # the gateway dies

    async def reclaimed() -> bool:
        return await reclaim_partition(connection, 0) == 1

    await eventually(reclaimed, within_s=5, what="the reclaimer")
    assert await client.hget(keys.limit_key(0, "key_1", "tokens_per_minute"), "sum") == b"10"
    assert not await client.exists(keys.slots_key(0, "key_1", "concurrency"))
    await client.aclose()


async def test_a_settlement_that_comes_after_the_reclaimer_is_counted(
    connection: RedisConnection, redis_url: str
) -> None:
    client = redis.asyncio.from_url(redis_url)
    late: list[int] = []
    quota, event = Quota(connection, 1, on_late=lambda: late.append(1)), make_event(2)
    admitted = await quota.admit(CALLER, LIMITS, CEILING, event, Usage(), PRICE)
    assert isinstance(admitted, Reservation)
    quota.settle(admitted, LIMITS, event)
    await connection.ping()
    assert not late
    quota.settle(admitted, LIMITS, event)
    await connection.ping()
    assert late == [1]
    await client.aclose()


def no_use() -> None:
    raise LookupError


async def test_what_is_done_meanwhile_is_done_while_redis_works(connection: RedisConnection) -> None:
    quota, event, seen = Quota(connection, 1), make_event(4, outcome="reclaimed"), []

    def meanwhile() -> None:
        seen.append(connection.unwritten)

    admitted = await quota.admit(CALLER, LIMITS, CEILING, event, Usage(), PRICE, meanwhile=meanwhile)
    assert isinstance(admitted, Reservation)
    assert seen == [0], "once, and Redis had been asked by then"


@pytest.mark.parametrize("how", ["the client leaves", "Redis is late", "what is done meanwhile fails"])
async def test_what_was_admitted_and_not_waited_for_is_given_back_at_once(redis_url: str, how: str) -> None:
    client = redis.asyncio.from_url(redis_url)
    hasty = RedisConnection(redis_url, timeout_s=0.1)
    await hasty.start()
    quota, event = Quota(hasty, 1), make_event(3, outcome="reclaimed")
    if how == "Redis is late":
        await client.client_pause(300)
    meanwhile = no_use if how == "what is done meanwhile fails" else None
    asking = asyncio.create_task(quota.admit(CALLER, LIMITS, CEILING, event, Usage(), PRICE, meanwhile=meanwhile))
    if how == "the client leaves":
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    async def nothing_is_held() -> bool:
        if not hasty.ready:
            return False
        windows, slots = (await quota.look(CALLER, LIMITS))[1]
        return not await client.hlen(keys.held_key(0)) and (windows.remaining, slots.remaining) == (1000, 5)

    await eventually(nothing_is_held, within_s=5, what="the return of what was reserved")
    await client.aclose()
    await hasty.close()
