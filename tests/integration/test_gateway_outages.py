"""One dead part has a declared effect, a bounded wait, and no hang: Redis, a gateway, a key that is gone."""

import asyncio
import functools
import time

import pytest

from gateway.identity.epoch import bump_epoch
from gateway.identity.issue import revoke_key
from gateway.limits.weights import Weights
from gateway.quota import keys
from gateway.quota.keeper import LEASE_MS
from gateway.quota.note import Bound, Note, encode_note
from gateway.quota.scripts import RENEW
from tests.support.events import make_event
from tests.support.eventually import eventually
from tests.support.gateways import PARTITIONS, Gateway, World, in_the_world
from tests.support.triton import Generation, event

pytestmark = in_the_world

FAST_S = 0.5


def away(world: World, how: str) -> None:
    if how == "killed":
        world.redis_server.kill()
    else:
        world.redis_server.pause()


def back(world: World, how: str) -> None:
    if how == "killed":
        world.redis_server.start()
    else:
        world.redis_server.resume()


async def is_recovered(gateway: Gateway, token: str) -> bool:
    return (await gateway.chat(token)).status == 200


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_without_redis_requests_fail_fast_and_service_comes_back_with_it(world: World, how: str) -> None:
    key = await world.key("wide")
    assert (await world.gateway.chat(key.token)).status == 200
    await world.nothing_held()
    away(world, how)
    try:
        for _ in range(5):
            began = time.monotonic()
            answer = await world.gateway.chat(key.token)
            assert time.monotonic() - began < FAST_S
            assert (answer.status, (await answer.json())["error"]["code"]) == (503, "service_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
        assert (await world.gateway.get("/livez")).status == 200
        began = time.monotonic()
        assert (await world.gateway.get("/readyz")).status == 503
        assert time.monotonic() - began < 1.5
        assert not any(triton.generations[1:] for triton in world.tritons)
    finally:
        back(world, how)
    for gateway in world.gateways:
        await eventually(functools.partial(is_recovered, gateway, key.token), what="the recovery")
    await world.ready()
    await reclaim_what_was_admitted_unheard(world)


async def reclaim_what_was_admitted_unheard(world: World) -> None:
    """A paused Redis runs, when it wakes, the admissions that their gateways have given up: the reclaimer's work."""
    for partition in range(PARTITIONS):
        for request in await world.redis.zrange(keys.lease_key(partition), 0, -1):
            await world.redis.zadd(keys.lease_key(partition), {request: 0})
        await world.reclaim(partition)


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_a_stream_outlives_an_absence_of_redis_and_is_charged_once_when_it_is_back(
    world: World, how: str
) -> None:
    gate = asyncio.Event()

    async def two_halves(generation: Generation) -> None:
        await generation.send(event("Hello"))
        await gate.wait()
        await generation.say(" world")

    world.tritons[0].behave = two_halves
    key = await world.key("wide")
    answer = await world.gateway.chat(key.token, model="solo", stream=True)
    await eventually(lambda: world.tritons[0].generations, what="the generation")
    away(world, how)
    try:
        gate.set()
        assert [data async for data in answer.events()][-1] == "[DONE]"
    finally:
        back(world, how)
    record = await world.event(key)
    assert (record.outcome, record.prompt_tokens, record.completion_tokens) == ("completed", 5, 2)
    await world.nothing_held()
    assert await world.used(key, "tokens_per_minute") == 7
    await world.ready()


async def test_the_requests_of_a_gateway_that_died_are_charged_as_last_reported_and_given_back(world: World) -> None:
    async def two_words(generation: Generation) -> None:
        await generation.send(event("Hello"), event(" there"))
        await generation.gone.wait()

    world.tritons[0].behave = two_words
    key = await world.key("wide")
    victim = world.gateways[1]
    answer = await victim.chat(key.token, model="solo", stream=True, max_tokens=500)
    partition = world.partition(key)
    [request] = await world.redis.hkeys(keys.held_key(partition))
    assert request.decode() == answer.headers["x-request-id"]
    head = [keys.clock_key(partition), keys.held_key(partition), keys.lease_key(partition)]
    await world.redis.eval(RENEW.text, 3, *head, LEASE_MS, request, 5, 2, 0)  # what the gateway does every 5 s
    victim.kill()
    try:
        assert await world.reclaim(partition) == 0, "its lease has not ended"
        await world.redis.zadd(keys.lease_key(partition), {request: 0})
        assert await world.reclaim(partition) == 1
        assert await world.reclaim(partition) == 0
        record = await world.event(key)
        assert (record.outcome, record.prompt_tokens, record.completion_tokens) == ("reclaimed", 5, 2)
        assert record.reserved_tokens > 500
        assert await world.used(key, "tokens_per_minute") == 7
        await asyncio.wait_for(world.tritons[0].generations[0].gone.wait(), 2)
    finally:
        victim.start()
    await world.ready()


async def test_a_gateway_that_was_cut_off_and_reclaimed_still_has_its_settlement_recorded(world: World) -> None:
    go_on = asyncio.Event()

    async def two_halves(generation: Generation) -> None:
        await generation.send(event("Hello"))
        await go_on.wait()
        await generation.send(event(" there", finish="stop"))

    world.tritons[0].behave = two_halves
    key = await world.key("wide")
    partition = world.partition(key)
    answer = await world.gateways[1].chat(key.token, model="solo", stream=True, max_tokens=500)
    [request] = await world.redis.hkeys(keys.held_key(partition))
    await world.redis.zadd(keys.lease_key(partition), {request: 0})
    assert await world.reclaim(partition) == 1
    go_on.set()
    await answer.body()
    await world.nothing_held()
    assert [one.outcome for one in await world.events(key)] == ["reclaimed", "completed"]


async def test_a_reservation_that_cannot_be_ended_does_not_hold_up_the_others(world: World) -> None:
    partition = world.partition(await world.key("wide"))
    held, lease = keys.held_key(partition), keys.lease_key(partition)
    broken, sound = keys.limit_key(partition, "key_a", "broken"), keys.limit_key(partition, "key_b", "sound")
    await world.redis.set(broken, "a string where a window should be")
    for number, window in ((1, broken), (2, sound)):
        note = encode_note(Note(make_event(number), Weights(), (Bound(window, "tokens", Weights()),))).decode()
        await world.redis.hset(held, make_event(number).request, f"w1:500|0|0|{note}")
        await world.redis.zadd(lease, {make_event(number).request: 0})
    assert await world.reclaim(partition) == 1
    assert await world.redis.hkeys(held) == [make_event(1).request.encode()]
    await world.redis.delete(broken)
    assert await world.reclaim(partition) == 1


async def test_a_revoked_key_lists_no_models_either(world: World) -> None:
    key = await world.key("wide")
    for gateway in world.gateways:
        assert (await gateway.get("/v1/models", key.token)).status == 200
    await revoke_key(world.database, world.redis, PARTITIONS, key.record.id)
    for gateway in world.gateways:
        assert (await gateway.get("/v1/models", key.token)).status == 401


async def test_a_reservation_that_nobody_can_read_does_not_stop_the_reclaimer(world: World) -> None:
    key = await world.key("wide")
    partition = world.partition(key)
    for request, held in (("req_a", "rubbish"), ("req_b", "w1:1|0|0|{}"), ("req_c", "")):
        await world.redis.hset(keys.held_key(partition), request, held)
        await world.redis.zadd(keys.lease_key(partition), {request: 0})
    assert await world.reclaim(partition) == 0
    assert await world.held() == 0


async def test_a_revoked_key_stops_at_its_next_request_on_every_gateway(world: World) -> None:
    key = await world.key("wide")
    for gateway in world.gateways:
        assert (await gateway.chat(key.token)).status == 200
    await world.nothing_held()
    await revoke_key(world.database, world.redis, PARTITIONS, key.record.id)
    for gateway in world.gateways:
        answer = await gateway.chat(key.token)
        assert (answer.status, (await answer.json())["error"]["code"]) == (401, "invalid_api_key")
    assert sum(len(triton.generations) for triton in world.tritons) == 2
    await world.nothing_held()  # the settlements were sent before the answers; another connection may overtake them
    found = await world.events(key)
    assert [(one.outcome, one.status) for one in found] == [("completed", 200)] * 2 + [("refused", 401)] * 2
    assert await world.used(key, "requests_per_minute") == 2
    await world.nothing_held()


async def test_another_keys_revocation_costs_a_look_and_nothing_else(world: World) -> None:
    kept, gone = await world.key("wide", "shared"), await world.key("wide", "shared")
    assert (await world.gateway.chat(kept.token)).status == 200
    await revoke_key(world.database, world.redis, PARTITIONS, gone.record.id)
    assert (await world.gateway.chat(kept.token)).status == 200
    await bump_epoch(world.redis, kept.record.organisation, PARTITIONS)
    assert (await world.gateway.chat(kept.token)).status == 200
    assert (await world.gateway.chat(gone.token)).status == 401


async def test_keys_that_are_none_are_told_alike(world: World) -> None:
    key = await world.key()
    other = await world.key()
    crossed = key.token[:20] + other.token[20:]
    mistyped = key.token[:-1] + ("y" if key.token.endswith("x") else "x")
    told = set()
    for token in (crossed, mistyped, "cf-", "x" * 4000, "cf-é"):
        answer = await world.gateway.chat(token)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        told.add((await answer.json())["error"]["message"])
    assert len(told) == 1
