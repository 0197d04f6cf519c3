"""Tensors past failing Tritons, leaving clients and used-up limits: what clients, limits and records see."""

import asyncio
import json
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.eventually import eventually
from tests.support.gateways import CHARGE, MAX_BODY, World, in_the_world
from tests.support.http import Answer
from tests.support.triton import FakeTriton, Generation, Inference, event

pytestmark = in_the_world

COST = CHARGE["request"] + 3 * CHARGE["element"]


def numbers(*values: float, **more: Any) -> dict[str, Any]:
    inputs = [{"name": "number", "shape": [len(values)], "datatype": "FP32", "data": values}]
    return {"inputs": inputs, **more}


async def infer(world: World, token: str | None, model: str = "doubler", body: object = None, **headers: str) -> Answer:
    return await world.gateway.post(f"/v2/models/{model}/infer", token, body or numbers(1, 2, 3), **headers)


async def refuse(inference: Inference) -> None:
    await inference.refuse(500)


async def hang_up(inference: Inference) -> None:
    inference.hang_up()


async def not_served(inference: Inference) -> None:
    await inference.refuse(503)


async def be_silent(inference: Inference) -> None:
    await inference.gone.wait()


async def test_what_reaches_triton_is_written_by_the_gateway_alone(world: World) -> None:
    key = await world.key("wide")
    answer = await infer(world, key.token, body=numbers(1, 2, 3, id="secret id"), **{"x-secret": "header"})
    assert (await answer.json())["outputs"][0]["data"] == [2, 4, 6]
    (inference,) = [one for triton in world.tritons for one in triton.inferences]
    assert inference.request == {
        "inputs": [{"name": "number", "datatype": "FP32", "shape": [3], "parameters": {"binary_data_size": 12}}],
        "outputs": [{"name": "twice", "parameters": {"binary_data": True}}],
        "parameters": {},
    }
    assert "secret" not in inference.head.lower()
    record = await world.event(key)
    assert (record.endpoint, record.outcome, record.prompt_tokens, record.reserved_tokens) == (
        "infer", "completed", COST, COST,
    )  # fmt: skip
    assert await world.used(key, "tokens_per_minute") == COST
    assert int(answer.headers["x-ratelimit-remaining-tokens"]) == 1_000_000 - COST


@pytest.mark.parametrize("failing", [hang_up, not_served])
async def test_an_endpoint_that_gave_nothing_back_is_left_for_the_other(
    world: World, failing: Callable[[Inference], Awaitable[None]]
) -> None:
    bad: list[FakeTriton] = []

    def whoever_is_asked_first_fails(triton: FakeTriton) -> Callable[[Inference], Awaitable[None]]:
        answers = triton.compute

        async def compute(inference: Inference) -> None:
            if not bad:
                bad.append(triton)
            await (failing(inference) if triton is bad[0] else answers(inference))

        return compute

    for triton in world.tritons:
        triton.compute = whoever_is_asked_first_fails(triton)
    key = await world.key("wide")
    assert (await infer(world, key.token)).status == 200
    record = await world.event(key)
    assert (record.outcome, record.attempts, record.prompt_tokens) == ("completed", 2, COST)


async def cut_off(inference: Inference) -> None:
    await inference.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    inference.hang_up()


async def wrong_shape(inference: Inference) -> None:
    await inference.tell(("twice", "FP32", [3], bytes(11)))


async def other_output(inference: Inference) -> None:
    await inference.tell(("insides", "FP32", [3], bytes(12)))


async def no_json(inference: Inference) -> None:
    await inference.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ninsides")


@pytest.mark.parametrize("failing", [refuse, cut_off, wrong_shape, other_output, no_json])
async def test_an_answer_that_came_and_is_none_is_an_error_once_and_costs_nothing(
    world: World, failing: Callable[[Inference], Awaitable[None]]
) -> None:
    for triton in world.tritons:
        triton.compute = failing
    key = await world.key("wide")
    answer = await infer(world, key.token)
    body = await answer.json()
    assert (answer.status, body["code"]) == (502, "upstream_error")
    assert "insides" not in json.dumps(body)
    assert sum(len(triton.inferences) for triton in world.tritons) == 1
    record = await world.event(key)
    assert (record.outcome, record.status, record.prompt_tokens) == ("failed", 502, 0)
    assert await world.used(key, "tokens_per_minute") == 0


async def test_an_answer_larger_than_any_bound_is_an_error(world: World) -> None:
    async def endless(inference: Inference) -> None:
        await inference.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
        while not inference.gone.is_set():
            await inference.raw(bytes(1 << 20))

    world.tritons[0].compute = endless
    key = await world.key("wide")
    assert (await infer(world, key.token, "lone")).status == 502


async def test_a_silent_triton_is_a_timeout(world: World) -> None:
    world.tritons[0].compute = be_silent
    key = await world.key("wide")
    answer = await infer(world, key.token, "lone")
    assert (answer.status, (await answer.json())["code"]) == (504, "upstream_timeout")
    record = await world.event(key)
    assert (record.outcome, record.prompt_tokens) == ("timeout", 0)


async def test_a_client_that_leaves_cuts_the_request_off_and_is_charged_for_what_it_set_in_motion(world: World) -> None:
    world.tritons[0].compute = be_silent
    key = await world.key("wide")
    asking = asyncio.create_task(infer(world, key.token, "lone"))

    async def asked() -> bool:
        return bool(world.tritons[0].inferences)

    await eventually(asked, what="the request at Triton")
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await asyncio.wait_for(world.tritons[0].inferences[0].gone.wait(), 2)
    record = await world.event(key)
    assert (record.outcome, record.status, record.prompt_tokens) == ("cancelled", 499, COST)


async def test_the_limits_of_a_key_hold_for_tensors_and_text_together(world: World) -> None:
    """Field notes, section 3, item 15: a limit cannot be passed through another endpoint."""
    key = await world.key("seven_hundred_tokens")
    statuses = [(await infer(world, key.token)).status for _ in range(7)]
    assert statuses == [200] * 5 + [429] * 2  # 5 x 130 of 700
    assert (await world.gateway.chat(key.token, max_tokens=50)).status == 429
    refused = await infer(world, key.token)
    body = await refused.json()
    assert (body["code"], body["type"]) == ("rate_limit_exceeded", "tokens")
    assert int(refused.headers["retry-after-ms"]) > 0
    assert len(await world.events(key)) == 5


async def test_what_could_never_be_admitted_is_told_so_before_anything_is_computed(world: World) -> None:
    key = await world.key("seven_hundred_tokens")
    answer = await infer(world, key.token, body=numbers(*range(61)))
    body = await answer.json()
    assert (answer.status, body["code"]) == (400, "request_exceeds_limit")
    assert "710 tokens" in body["error"]
    assert not any(triton.inferences for triton in world.tritons)


async def test_a_body_over_the_bound_is_refused_unread(world: World) -> None:
    key = await world.key()
    data = struct.pack("<f", 1) * (MAX_BODY // 4)
    answer = await infer(world, key.token, body=b"x" + data)
    assert (answer.status, (await answer.json())["code"]) == (413, "request_too_large")


async def test_refusals_before_admission_leave_no_event_and_take_nothing(world: World) -> None:
    key = await world.key("wide")
    for model, body, status in (
        ("doubler", {"inputs": [{"name": "number", "shape": [1], "datatype": "INT32", "data": [1]}]}, 400),
        ("doubler", {"inputs": []}, 400),
        ("demo", numbers(1), 400),
        ("nothing", numbers(1), 404),
        ("demo/versions/1", numbers(1), 404),
    ):
        assert (await infer(world, key.token, model, body)).status == status
    assert (await infer(world, None)).status == 401
    assert await world.events(key) == []
    assert not any(triton.inferences for triton in world.tritons)


async def test_a_model_that_no_triton_has_shown_yet_is_unavailable_not_unchecked(world: World) -> None:
    await world.tritons[0].stop()
    try:
        key = await world.key()
        answers = [await infer(world, key.token, "lone") for _ in range(2)]
        assert [answer.status for answer in answers] == [503, 503]
        ready = await world.gateway.get("/v2/models/lone/ready", key.token)
        assert (ready.status, await ready.json()) == (503, {"name": "lone", "ready": False})
    finally:
        await world.tritons[0].start()
    await world.ready()
    assert (await infer(world, key.token, "lone")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/v2/health/live", 405), ("GET", "/v2/models/demo/infer", 405), ("POST", "/v2/models/demo/ready", 405),
     ("DELETE", "/v2/models/demo", 404), ("GET", "/v2/models/", 404), ("PUT", "/v2/models/demo/infer", 405)],
)  # fmt: skip
async def test_other_methods_are_refused_in_kserves_words(world: World, method: str, path: str, status: int) -> None:
    key = await world.key()
    answer = await world.gateway.request(method, path, key.token)
    assert answer.status == status
    assert isinstance((await answer.json())["error"], str)
    assert (status == 405) == ("allow" in answer.headers)


# -- generate on text models


async def generate(world: World, token: str, *, stream: bool = False, **fields: Any) -> Answer:
    body = {"text_input": "hi", "max_tokens": 20, **fields}
    return await world.gateway.post(f"/v2/models/solo/generate{'_stream' if stream else ''}", token, body)


@pytest.mark.parametrize("stream", [False, True])
async def test_generate_reaches_triton_as_a_completion_does_and_is_recorded_like_one(
    world: World, stream: bool
) -> None:
    key = await world.key("wide")
    fields = {"sampling_parameters": '{"temperature": 0.5, "seed": 3}', "return_num_output_tokens": True}
    answer = await generate(world, key.token, stream=stream, **fields)
    await answer.body()
    completion = {"model": "solo", "prompt": "hi", "max_tokens": 20, "temperature": 0.5, "seed": 3}
    await (await world.gateway.post("/v1/completions", key.token, completion)).body()
    ours, other = world.tritons[0].generations
    assert ours.request == other.request
    records = await eventually_two(world, key)
    told = [
        (one.endpoint, one.stream, one.prompt_tokens, one.completion_tokens, one.reserved_tokens) for one in records
    ]
    assert told == [("generate", stream, 5, 2, 22), ("completions", False, 5, 2, 22)]
    assert int(answer.headers["x-ratelimit-limit-tokens"]) == 1_000_000


async def eventually_two(world: World, key: Any) -> list[Any]:
    async def two() -> list[Any]:
        found = await world.events(key)
        return found if len(found) == 2 else []

    return await eventually(two, what="two events")


async def test_an_error_in_mid_stream_is_one_frame_in_kserves_words_and_what_came_is_charged(world: World) -> None:
    async def break_off(generation: Generation) -> None:
        await generation.send(event("Hello"), event(" there"))
        await generation.send({"error": "insides of Triton"})

    world.tritons[0].behave = break_off
    key = await world.key("wide")
    answer = await generate(world, key.token, stream=True)
    frames = [json.loads(data) async for data in answer.events()]
    assert [frame.get("text_output") for frame in frames] == ["Hello", " there", None]
    assert frames[-1]["error"] == "The model's server failed while it answered."
    record = await world.event(key)
    assert (record.outcome, record.completion_tokens) == ("failed", 2)


async def test_a_client_that_leaves_generate_cuts_the_generation_off(world: World) -> None:
    async def one_word(generation: Generation) -> None:
        await generation.send(event("Hello"))
        await generation.gone.wait()

    world.tritons[0].behave = one_word
    key = await world.key("wide")
    answer = await generate(world, key.token, stream=True)
    await anext(answer.events())
    answer.leave()
    await asyncio.wait_for(world.tritons[0].generations[0].gone.wait(), 2)
    record = await world.event(key)
    assert (record.outcome, record.completion_tokens) == ("cancelled", 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 900},
        {"max_tokens": None, "parameters": {"max_tokens": 900}},
        {"max_tokens": None, "sampling_parameters": '{"max_tokens": 900}'},
        {"text_input": "x" * 700},
        {"text_input": ["x" * 700]},
    ],
)
async def test_generate_cannot_ask_for_more_than_its_key_may_ever_have(world: World, fields: dict[str, Any]) -> None:
    """Field notes, section 3, item 15: wherever the cap stands, however the text is spelt."""
    key = await world.key("seven_hundred_tokens")
    answer = await generate(world, key.token, **fields)
    assert (answer.status, (await answer.json())["code"]) == (400, "request_exceeds_limit")
    assert not world.tritons[0].generations
