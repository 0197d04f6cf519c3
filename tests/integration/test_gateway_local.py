"""`CATFLAP_REDIS_AWAY=local`: while Redis is away each gateway enforces its part of every limit; nothing is lost."""

from collections.abc import AsyncIterator
from functools import partial

import pytest_asyncio

from gateway.core.event import RequestEvent
from gateway.identity.issue import IssuedKey
from gateway.quota.gateways import KEY
from tests.support.eventually import eventually
from tests.support.gateways import Gateway, World, in_the_world

pytestmark = in_the_world

HEARD = "catflap_gateways_live"


@pytest_asyncio.fixture(loop_scope="session")
async def gateways(world: World) -> AsyncIterator[list[Gateway]]:
    """Two gateways that go on alone, and know of each other; the world's own two are counted with them."""
    environment = {**world.environment, "CATFLAP_REDIS_AWAY": "local"}
    await eventually(partial(no_others, world), within_s=20, what="that no gateway of earlier tests counts any more")
    started = [Gateway(f"local{number}", world.folder, environment) for number in range(2)]
    for gateway in started:
        gateway.start()

    async def know_all(gateway: Gateway) -> bool:
        return await gateway.metric(HEARD) == len(world.gateways) + len(started)

    try:
        for gateway in started:
            await eventually(gateway.is_ready, within_s=20, what="the gateway's readiness")
        for gateway in started:
            await eventually(partial(know_all, gateway), within_s=20, what="that all gateways are known")
        yield started
    finally:
        for gateway in started:
            gateway.stop()


async def no_others(world: World) -> bool:
    seconds, _ = await world.redis.time()
    return int(await world.redis.zcount(KEY, seconds * 1000, "+inf")) == len(world.gateways)


async def test_while_redis_is_away_gateways_give_their_parts_of_a_limit_and_the_record_comes_when_it_is_back(
    world: World, gateways: list[Gateway]
) -> None:
    key = await world.key("eight_requests")
    for gateway in gateways:
        assert (await gateway.get("/v1/models", key.token)).status == 200  # the key is remembered from now on
    world.redis_server.kill()
    try:
        statuses = [(await gateways[i % 2].chat(key.token)).status for i in range(12)]
        assert (await world.gateway.chat(key.token)).status == 503, "the mode is each gateway's own"
    finally:
        world.redis_server.start()
    assert sorted(statuses) == [200] * 4 + [429] * 8  # two gateways of four, each with a quarter of eight
    for gateway in gateways:
        await eventually(partial(serves, gateway, await world.key("open")), within_s=20, what="the recovery")
    found = await eventually(partial(enough, world, key, 4), within_s=20, what="the events of that time")
    assert [event.outcome for event in found] == ["completed"] * 4


async def serves(gateway: Gateway, key: IssuedKey) -> bool:
    return (await gateway.chat(key.token)).status == 200


async def enough(world: World, key: IssuedKey, count: int) -> list[RequestEvent]:
    found = await world.events(key)
    return found if len(found) >= count else []
