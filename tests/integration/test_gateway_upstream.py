"""What clients and records see when Triton refuses, breaks off, errs or falls silent."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from tests.support.gateways import World, in_the_world
from tests.support.http import Answer
from tests.support.triton import FakeTriton, Generation, event

pytestmark = in_the_world

FRAMES_OF_AN_ERROR = {"message", "type", "param", "code"}


async def told(answer: Answer) -> list[dict]:  # type: ignore[type-arg]
    """The frames of a stream that ends with [DONE]."""
    frames = [data async for data in answer.events()]
    assert frames[-1] == "[DONE]"
    return [json.loads(data) for data in frames[:-1]]


async def refuse(generation: Generation) -> None:
    await generation.refuse(500)


async def err_at_once(generation: Generation) -> None:
    await generation.send({"error": "insides of Triton"})
    await generation.end()


async def hang_up(generation: Generation) -> None:
    generation.hang_up()


async def be_silent(generation: Generation) -> None:
    await generation.gone.wait()


@pytest.mark.parametrize("failing", [refuse, err_at_once, hang_up])
async def test_a_failure_before_the_first_token_goes_once_to_the_other_endpoint(
    world: World, failing: Callable[[Generation], Awaitable[None]]
) -> None:
    bad: list[FakeTriton] = []

    def whoever_is_asked_first_fails(triton: FakeTriton) -> Callable[[Generation], Awaitable[None]]:
        async def behave(generation: Generation) -> None:
            if not bad:
                bad.append(triton)
            await (failing(generation) if triton is bad[0] else generation.say("Hello", " world"))

        return behave

    for triton in world.tritons:
        triton.behave = whoever_is_asked_first_fails(triton)
    key = await world.key()
    answer = await world.gateway.chat(key.token)
    assert (answer.status, (await answer.json())["choices"][0]["message"]["content"]) == (200, "Hello world")
    record = await world.event(key)
    assert (record.outcome, record.attempts, record.completion_tokens) == ("completed", 2, 2)
    assert record.upstream != f"e{world.tritons.index(bad[0])}"


async def test_where_there_is_no_other_endpoint_there_is_no_second_try(world: World) -> None:
    world.tritons[0].behave = refuse
    key = await world.key("wide")
    answer = await world.gateway.chat(key.token, model="solo")
    body = await answer.json()
    assert (answer.status, body["error"]["code"]) == (502, "upstream_error")
    assert body["error"].keys() == FRAMES_OF_AN_ERROR
    assert "insides" not in json.dumps(body)
    assert len(world.tritons[0].generations) == 1
    record = await world.event(key)
    assert (record.outcome, record.status, record.prompt_tokens, record.completion_tokens) == ("failed", 502, 0, 0)
    assert await world.used(key, "tokens_per_minute") == 0


async def test_two_refusals_are_enough(world: World) -> None:
    for triton in world.tritons:
        triton.behave = err_at_once
    key = await world.key()
    answer = await world.gateway.chat(key.token, stream=True)
    assert answer.status == 502
    assert sum(len(triton.generations) for triton in world.tritons) == 2


async def test_an_endpoint_that_nobody_listens_at_is_left_out_until_it_is_seen_again(world: World) -> None:
    await world.tritons[0].stop()
    try:
        key = await world.key()
        assert [(await world.gateway.chat(key.token)).status for _ in range(4)] == [200] * 4
        gone = await world.gateway.chat(key.token, model="solo")
        body = await gone.json()
        assert (gone.status, body["error"]["code"]) == (503, "service_unavailable")
        assert int(gone.headers["retry-after-ms"]) > 0
    finally:
        await world.tritons[0].start()
    await world.ready()
    assert (await world.gateway.chat(key.token, model="solo")).status == 200


async def test_an_error_in_mid_stream_is_one_frame_and_the_end_and_what_was_generated_is_charged(world: World) -> None:
    async def break_off(generation: Generation) -> None:
        await generation.send(event("Hello"))
        await generation.send(event(" there"), {"error": "insides of Triton"})

    world.tritons[0].behave = break_off
    key = await world.key("wide")
    frames = await told(await world.gateway.chat(key.token, model="solo", stream=True))
    assert [frame["choices"][0]["delta"].get("content") for frame in frames[:-1]][:2] == ["", "Hello"]
    assert frames[-1]["error"]["code"] == "upstream_error"
    assert "insides" not in json.dumps(frames)
    record = await world.event(key)
    assert (record.outcome, record.status, record.prompt_tokens, record.completion_tokens) == ("failed", 200, 5, 2)
    assert await world.used(key, "tokens_per_minute") == 7


async def test_a_connection_that_closes_in_mid_stream_is_told_as_an_error_and_charged(world: World) -> None:
    async def drop(generation: Generation) -> None:
        await generation.send(event("Hello"))
        await asyncio.sleep(0.05)  # past the first read, so that it is a stream by now
        generation.hang_up()

    world.tritons[0].behave = drop
    for stream in (True, False):
        key = await world.key()
        answer = await world.gateway.chat(key.token, model="solo", stream=stream)
        body = (await told(answer))[-1] if stream else await answer.json()
        assert body["error"]["code"] == "upstream_error"
        assert answer.status == (200 if stream else 502)
        record = await world.event(key)
        assert (record.outcome, record.completion_tokens) == ("failed", 1)


async def test_an_answer_that_ends_without_a_finish_reason_is_an_error(world: World) -> None:
    async def stop_short(generation: Generation) -> None:
        await generation.send(event("Hello"))
        await generation.end()

    world.tritons[0].behave = stop_short
    key = await world.key()
    frames = await told(await world.gateway.chat(key.token, model="solo", stream=True))
    assert frames[-1]["error"]["code"] == "upstream_error"


async def test_silence_before_the_first_token_is_a_gateway_timeout_and_the_gpu_is_left_alone(world: World) -> None:
    world.tritons[0].behave = be_silent
    key = await world.key("wide")
    answer = await world.gateway.chat(key.token, model="solo")
    assert (answer.status, (await answer.json())["error"]["code"]) == (504, "upstream_timeout")
    await asyncio.wait_for(world.tritons[0].generations[0].gone.wait(), 2)
    record = await world.event(key)
    assert (record.outcome, record.status) == ("timeout", 504)
    assert await world.used(key, "tokens_per_minute") == 0


async def test_silence_in_mid_stream_is_an_error_frame(world: World) -> None:
    async def fall_silent(generation: Generation) -> None:
        await generation.send(event("Hello"))
        await generation.gone.wait()

    world.tritons[0].behave = fall_silent
    key = await world.key()
    frames = await told(await world.gateway.chat(key.token, model="solo", stream=True))
    assert frames[-1]["error"]["code"] == "upstream_timeout"
    record = await world.event(key)
    assert (record.outcome, record.completion_tokens) == ("timeout", 1)


@pytest.mark.slow
async def test_a_stream_that_never_ends_is_ended_after_the_longest_life_of_a_request(world: World) -> None:
    async def for_ever(generation: Generation) -> None:
        while not generation.gone.is_set():
            await generation.send(event("x"))
            await asyncio.sleep(0.1)

    world.tritons[0].behave = for_ever
    key = await world.key()
    frames = await asyncio.wait_for(told(await world.gateway.chat(key.token, model="solo", stream=True)), 8)
    assert frames[-1]["error"]["code"] == "upstream_timeout"
    assert (await world.event(key)).outcome == "timeout"
    await asyncio.wait_for(world.tritons[0].generations[0].gone.wait(), 2)


async def test_one_choice_that_fails_ends_the_others_too(world: World) -> None:
    count = 0

    async def only_the_third_fails(generation: Generation) -> None:
        nonlocal count
        count += 1
        if count == 3:
            await generation.refuse(500)
            return
        await generation.send(event("Hello"))
        await generation.gone.wait()

    world.tritons[0].behave = only_the_third_fails
    key = await world.key("wide")
    answer = await world.gateway.chat(key.token, model="solo", n=3)
    assert answer.status == 502
    for generation in world.tritons[0].generations[:2]:
        await asyncio.wait_for(generation.gone.wait(), 2)
    assert (await world.event(key)).outcome == "failed"


async def test_choices_side_by_side_stream_each_its_own_words(world: World) -> None:
    async def by_seed(generation: Generation) -> None:
        seed = generation.parameters["seed"]
        await generation.say(*(f"{seed}.{i} " for i in range(5)))

    world.tritons[0].behave = by_seed
    key = await world.key()
    answer = await world.gateway.chat(
        key.token, model="solo", n=3, seed=70, stream=True, stream_options={"include_usage": True}
    )
    frames = await told(answer)
    assert frames[-1]["choices"] == []
    assert frames[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 15, "total_tokens": 20}
    texts = ["", "", ""]
    for frame in frames[:-1]:
        [choice] = frame["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == ["".join(f"{70 + n}.{i} " for i in range(5)) for n in range(3)]


@pytest.mark.slow
async def test_a_triton_that_talks_nonsense_to_the_prober_does_not_stop_the_probing(world: World) -> None:
    triton = world.tritons[0]
    sane = triton.metadata
    try:
        for nonsense in (b"<html>", [1], {"inputs": 7}):
            triton.metadata, triton.ready = nonsense, False
            await asyncio.sleep(1.2)  # a probe sees it not ready, and asks for its metadata as soon as it is
            triton.ready = True
            await asyncio.sleep(1.2)
    finally:
        triton.metadata = sane
    await world.ready()
