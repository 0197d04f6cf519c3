"""Every measure at every level, as a client meets it: who is counted together, what is charged, what is told."""

import asyncio

import pytest

from gateway.core.ids import partition_of
from gateway.identity.issue import IssuedKey
from gateway.quota import keys
from tests.support.eventually import eventually
from tests.support.gateways import DEAR, PARTITIONS, World, in_the_world
from tests.support.triton import Generation

pytestmark = in_the_world


async def statuses(world: World, key: IssuedKey, count: int, **fields: object) -> list[int]:
    """One request after the other, at both gateways in turn."""
    return [(await world.gateways[i % 2].chat(key.token, **fields)).status for i in range(count)]


async def test_callers_are_counted_together_at_each_level_and_the_tightest_limit_is_the_one_that_is_named(
    world: World,
) -> None:
    org = f"org of {id(world)} levels"
    mine = await world.key("every_level", org, principal="ann")
    assert await statuses(world, mine, 3) == [200, 200, 429]
    refused = await world.gateway.chat(mine.token)
    assert "2 requests per minute for this key" in (await refused.json())["error"]["message"]
    same_principal = await world.key("every_level", org, principal="ann")
    assert await statuses(world, same_principal, 2) == [200, 429]
    same_project = await world.key("every_level", org, principal="bob")
    assert await statuses(world, same_project, 2) == [200, 429]
    elsewhere = await world.key("every_level", org, project="app")
    assert await statuses(world, elsewhere, 2) == [200, 429]
    refused = await world.gateway.chat(elsewhere.token)
    assert "5 requests per minute for this organisation" in (await refused.json())["error"]["message"]
    assert await statuses(world, await world.key("every_level"), 1) == [200]


async def test_a_principal_runs_as_many_requests_at_a_time_as_its_limit_says_and_a_slot_is_free_at_once(
    world: World,
) -> None:
    key = await world.key("two_at_a_time")
    gate = asyncio.Event()

    async def hold_then_say(generation: Generation) -> None:
        await gate.wait()
        await generation.say("Hello")

    for triton in world.tritons:
        triton.behave = hold_then_say
    tasks = [asyncio.create_task(world.gateways[i % 2].chat(key.token)) for i in range(6)]
    await eventually(lambda: sum(task.done() for task in tasks) == 4, what="the refusal of all but two")
    refused = next(task.result() for task in tasks if task.done())
    told = await refused.json()
    assert (refused.status, told["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "2 requests at a time for this principal" in told["error"]["message"]
    assert int(refused.headers["retry-after-ms"]) <= 100, "nobody can promise a later moment"
    gate.set()
    assert sorted([(await task).status for task in tasks]) == [200, 200, 429, 429, 429, 429]
    await world.nothing_held()
    assert await statuses(world, key, 4) == [200] * 4


@pytest.mark.parametrize("end", ["leaves", "fails"])
async def test_a_slot_comes_back_however_its_request_ends(world: World, end: str) -> None:
    key = await world.key("two_at_a_time")

    async def hang_or_fail(generation: Generation) -> None:
        if end == "fails":
            generation.hang_up()
        else:
            await asyncio.sleep(30)

    for triton in world.tritons:
        triton.behave = hang_or_fail
    tasks = [asyncio.create_task(world.gateways[i].chat(key.token)) for i in range(2)]
    if end == "leaves":
        await eventually(lambda: sum(len(t.generations) for t in world.tritons) == 2, what="two generations")
        for task in tasks:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await world.nothing_held()
    for triton in world.tritons:
        triton.reset()
    assert await statuses(world, key, 3) == [200] * 3


async def test_who_leaves_before_the_first_token_is_charged_for_the_prompt_that_was_sent(
    world: World,
) -> None:
    key = await world.key("seven_hundred_tokens")

    async def read_for_ever(generation: Generation) -> None:
        await asyncio.sleep(30)

    for triton in world.tritons:
        triton.behave = read_for_ever
    asking = {"messages": [{"role": "user", "content": "x" * 600}], "max_tokens": 20}
    first = asyncio.create_task(world.gateway.chat(key.token, **asking))
    await eventually(lambda: sum(len(t.generations) for t in world.tritons) == 1, what="the generation")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    event = await world.event(key)
    sent = len("user: \n") + 600
    assert (event.outcome, event.prompt_tokens, event.completion_tokens) == ("cancelled", sent, 0)
    assert await world.used(key, "tokens_per_minute") == sent
    assert (await world.gateway.chat(key.token, **asking)).status == 429


async def test_output_weighs_more_where_the_plan_says_so(world: World) -> None:
    key = await world.key("heavy_output")
    answer = await world.gateway.chat(key.token, max_tokens=50)
    prompt_bound = len("user: hi\n")
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) == 1000 - (-(-prompt_bound // 2) + 500)
    await world.event(key)
    assert await world.used(key, "tokens_per_minute") == 3 + 20  # 5 prompt tokens at a half, 2 words at ten


async def test_a_limit_on_one_model_leaves_the_others_alone(world: World) -> None:
    key = await world.key("solo_is_scarce")
    assert await statuses(world, key, 2, model="solo") == [200, 429]
    refused = await world.gateway.chat(key.token, model="solo")
    assert "on the model 'solo' alone" in (await refused.json())["error"]["message"]
    assert await statuses(world, key, 8, model="demo") == [200] * 8
    assert await statuses(world, key, 1, model="demo") == [429]


async def test_a_budget_reserves_the_most_that_a_request_can_cost_and_charges_what_it_did(world: World) -> None:
    key = await world.key("small_purse")
    answer = await world.gateway.chat(key.token, model="dear", max_tokens=8)
    assert answer.status == 200
    event = await world.event(key)
    tokens_cost = 5 * DEAR["prompt"] + 2 * DEAR["output"]
    assert event.cost == tokens_cost + event.kv_cost
    assert await spent(world, key) == event.cost


async def test_a_spent_budget_is_insufficient_quota_which_clients_do_not_retry(world: World) -> None:
    key = await world.key("small_purse")
    assert (await world.gateway.chat(key.token, model="dear", max_tokens=9)).status == 200
    await world.event(key)
    refused = await world.gateway.chat(key.token, model="dear", max_tokens=9)
    told = (await refused.json())["error"]
    assert (refused.status, told["type"], told["code"]) == (429, "insufficient_quota", "insufficient_quota")
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers
    assert "of this organisation" in told["message"]
    assert "(UTC)" in told["message"]
    assert (await world.gateway.get("/v1/models", key.token)).status == 200, "the list goes on answering"


async def test_kv_cache_may_overrun_a_budget_by_what_is_in_flight_and_then_nothing_more_is_admitted(
    world: World,
) -> None:
    key = await world.key("small_purse")

    async def dawdle(generation: Generation) -> None:
        await asyncio.sleep(0.3)
        await generation.say("Hello", " world")

    for triton in world.tritons:
        triton.behave = dawdle
    before = world.partition(key)
    await world.redis.hset(keys.budget_key(before, key.record.organisation, "cost_per_month"),
                           mapping={"month": 999_912, "used": 700})  # fmt: skip
    assert (await world.gateway.chat(key.token, model="dear", max_tokens=2)).status == 200
    event = await world.event(key)
    assert event.kv_cost > 1
    assert await spent(world, key) == 700 + event.cost


async def test_the_same_limits_are_listed_for_the_asking_and_listing_takes_nothing(world: World) -> None:
    key = await world.key("every_level")
    assert await statuses(world, key, 1) == [200]
    for _ in range(3):
        answer = await world.gateway.get("/v1/limits", key.token)
        assert answer.status == 200
        told = await answer.json()
    assert told["plan"] == "every_level"
    assert [(one["level"], one["limit"], one["remaining"]) for one in told["data"]] == [
        ("key", 2, 1),
        ("principal", 3, 2),
        ("project", 4, 3),
        ("organisation", 5, 4),
    ]
    assert (await world.gateway.get("/v1/limits")).status == 401


@pytest.mark.parametrize("bad", [b"{", b'{"model":"nobody","messages":[]}', b'{"model":"demo","messages":[],"n":0}'])
async def test_answers_that_reserve_nothing_tell_the_limits_too(world: World, bad: bytes) -> None:
    key = await world.key("every_level")
    refused = await world.gateway.post("/v1/chat/completions", key.token, bad)
    assert refused.status in (400, 404)
    for answer in (refused, *[await world.gateway.get(path, key.token) for path in ("/v1/models", "/v1/limits")]):
        assert answer.headers["x-ratelimit-remaining-requests"] == "2"
        assert '"organisation.requests_per_minute";r=5' in answer.headers["ratelimit"]


async def test_answers_carry_the_standard_rate_limit_headers(world: World) -> None:
    answer = await world.gateway.chat((await world.key("every_level")).token)
    assert answer.headers["ratelimit-policy"].startswith('"key.requests_per_minute";q=2;w=60')
    assert answer.headers["ratelimit"].startswith('"key.requests_per_minute";r=1;t=')


async def spent(world: World, key: IssuedKey) -> int:
    partition = partition_of(key.record.organisation, PARTITIONS)
    budget = keys.budget_key(partition, key.record.organisation, "cost_per_month")
    return int(await world.redis.hget(budget, "used"))
