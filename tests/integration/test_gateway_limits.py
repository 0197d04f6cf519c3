"""Limits mean what they say, over two gateway processes and one Redis."""

import asyncio

import pytest

from gateway.core.event import RequestEvent
from gateway.identity.issue import IssuedKey
from tests.support.eventually import eventually
from tests.support.gateways import World, in_the_world
from tests.support.http import Answer
from tests.support.triton import Generation

pytestmark = in_the_world

RACERS = 50


async def race(world: World, key: IssuedKey, **fields: object) -> list[Answer]:
    """50 clients at once, half of them at each gateway, which both know the key already."""
    for gateway in world.gateways:
        assert (await gateway.get("/v1/models", key.token)).status == 200
    return list(await asyncio.gather(*(world.gateways[i % 2].chat(key.token, **fields) for i in range(RACERS))))


async def finished(world: World, key: IssuedKey, count: int) -> list[RequestEvent]:
    async def enough() -> list[RequestEvent]:
        found = await world.events(key)
        return found if len(found) >= count else []

    return await eventually(enough, what=f"{count} events")


@pytest.mark.parametrize("stream", [False, True])
async def test_of_fifty_racing_requests_exactly_the_seven_pass_that_the_limit_has_room_for(
    world: World, stream: bool
) -> None:
    key = await world.key("seven_requests")
    answers = await race(world, key, stream=stream)
    assert sorted(answer.status for answer in answers) == [200] * 7 + [429] * (RACERS - 7)
    await asyncio.gather(*(answer.body() for answer in answers))
    assert [event.outcome for event in await finished(world, key, 7)] == ["completed"] * 7
    await world.nothing_held()
    assert len(await world.events(key)) == 7
    assert await world.used(key, "requests_per_minute") == 7


async def test_of_fifty_racing_requests_exactly_the_seven_pass_whose_tokens_fit(world: World) -> None:
    key = await world.key("seven_hundred_tokens")
    prompt = "x" * (30 - len("user: \n"))  # 30 tokens with the template, and 70 for the answer
    gate = asyncio.Event()

    async def hold_then_say(generation: Generation) -> None:
        await gate.wait()
        await generation.say("Hello", " world")

    for triton in world.tritons:
        triton.behave = hold_then_say  # nothing is given back before all have asked
    tasks = [
        asyncio.create_task(
            world.gateways[i % 2].chat(key.token, messages=[{"role": "user", "content": prompt}], max_tokens=70)
        )
        for i in range(RACERS)
    ]
    await eventually(lambda: sum(task.done() for task in tasks) == RACERS - 7, what="the refusal of all but seven")
    gate.set()
    answers = await asyncio.gather(*tasks)
    assert sorted(answer.status for answer in answers) == [200] * 7 + [429] * (RACERS - 7)
    assert {event.reserved_tokens for event in await finished(world, key, 7)} == {100}
    assert await world.used(key, "tokens_per_minute") == 7 * 7  # 5 prompt tokens and 2 words told by the backend


async def test_a_refusal_says_when_to_come_back_and_where_every_limit_stands(world: World) -> None:
    key = await world.key("seven_requests")
    for _ in range(7):
        assert (await world.gateway.chat(key.token)).status == 200
    refused = await world.gateways[1].chat(key.token)
    assert refused.status == 429
    body = await refused.json()
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert (body["error"]["type"], body["error"]["code"]) == ("requests", "rate_limit_exceeded")
    wait_ms = int(refused.headers["retry-after-ms"])
    assert 59_000 <= wait_ms <= 61_000
    assert int(refused.headers["retry-after"]) == -(-wait_ms // 1000)
    assert refused.headers["x-ratelimit-limit-requests"] == "7"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"].endswith("s")
    assert refused.headers["x-request-id"].startswith("req_")


async def test_an_answer_tells_what_is_left_of_requests_and_of_tokens(world: World) -> None:
    key = await world.key("wide")
    answer = await world.gateway.chat(key.token, max_tokens=20)
    assert answer.headers["x-ratelimit-limit-requests"] == "1000"
    assert answer.headers["x-ratelimit-remaining-requests"] == "999"
    assert answer.headers["x-ratelimit-limit-tokens"] == "1000000"
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) == 1_000_000 - 20 - len("user: hi\n")


async def test_a_settled_request_gives_back_what_it_did_not_use(world: World) -> None:
    key = await world.key("wide")
    await (await world.gateway.chat(key.token, max_tokens=1000)).body()
    event = await world.event(key)
    assert (event.prompt_tokens, event.completion_tokens) == (5, 2)
    assert await world.used(key, "tokens_per_minute") == 7


async def test_a_request_that_could_never_fit_its_limit_is_told_so_and_takes_nothing(world: World) -> None:
    key = await world.key("seven_hundred_tokens")
    answer = await world.gateway.chat(key.token, max_tokens=700)
    body = await answer.json()
    assert (answer.status, body["error"]["code"], body["error"]["param"]) == (
        400,
        "request_exceeds_limit",
        "max_tokens",
    )
    assert await world.used(key, "requests_per_minute") == 0


async def test_several_choices_of_several_prompts_reserve_and_charge_all_of_them(world: World) -> None:
    key = await world.key("wide")
    body = {"model": "demo", "prompt": ["one", "three"], "n": 2, "max_tokens": 10}
    answer = await world.gateway.post("/v1/completions", key.token, body)
    told = await answer.json()
    assert [choice["index"] for choice in told["choices"]] == [0, 1, 2, 3]
    event = await world.event(key)
    assert event.reserved_tokens == len("one") + len("three") + 4 * 10
    assert (event.prompt_tokens, event.completion_tokens, event.choices) == (2 * 5, 4 * 2, 4)
    assert told["usage"] == {"prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 18}
    assert await world.used(key, "tokens_per_minute") == 18
