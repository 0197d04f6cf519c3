"""Gateways count each other in Redis, and remember it when Redis is away."""

import asyncio
from contextlib import AsyncExitStack

from gateway.quota.gateways import HEARD, Gateways, Part
from gateway.quota.local import LocalLimits
from tests.support.eventually import eventually
from tests.support.redis import RedisServer
from tests.support.redis_load import connected
from tests.unit.quota.test_local import NOW_MS, ALimit


async def test_each_gateway_has_a_part_of_its_own_and_those_that_end_are_not_counted(
    redis_server: RedisServer,
) -> None:
    async with connected(redis_server.url) as connection:
        gateways = [Gateways(connection, f"gateway-{number}", lease_ms=300) for number in range(4)]
        for _ in range(2):
            for gateway in gateways:
                await gateway.beat()
        assert [gateway.part for gateway in gateways] == [Part(4, number) for number in range(4)]
        gateways[0].leave()
        for _ in range(HEARD):
            await gateways[1].beat()
        assert gateways[1].part == Part(3, 0)
        await asyncio.sleep(0.35)  # the others are dead
        for _ in range(HEARD):
            await gateways[1].beat()
        assert gateways[1].part == Part(1, 0)


async def test_a_flush_does_not_make_a_gateway_believe_that_it_is_alone(redis_server: RedisServer) -> None:
    async with connected(redis_server.url) as connection:
        gateways = [Gateways(connection, f"gateway-{number}") for number in range(3)]
        for gateway in gateways * 2:
            await gateway.beat()
        reader, writer = await asyncio.open_unix_connection(str(redis_server.socket))
        writer.write(b"FLUSHALL\r\n")
        assert await reader.readline() == b"+OK\r\n"
        writer.close()
        await gateways[0].beat()
        part = gateways[0].part
        assert part is not None and part.of == 3


async def test_with_redis_away_all_gateways_together_admit_the_cap_and_no_more(redis_server: RedisServer) -> None:
    async with AsyncExitStack() as stack:
        gateways = []
        for number in range(4):
            connection = await stack.enter_async_context(connected(redis_server.url))
            gateways.append((connection, Gateways(connection, f"gateway-{number}")))
        for _, gateway in gateways * 2:
            await gateway.beat()
        redis_server.kill()
        await eventually(lambda: not any(connection.ready for connection, _ in gateways), what="the loss")
        for _, gateway in gateways:
            await gateway.beat()  # nobody answers: what was heard holds
        local = [LocalLimits(lambda gateway=gateway: gateway.part) for _, gateway in gateways]  # type: ignore[misc]
        limit = ALimit("requests", cap=101)
        granted = sum(
            one.admit(f"{number}", [limit], [1], NOW_MS + number).refused_by == 0
            for one in local
            for number in range(1000)
        )
        assert granted == 101
