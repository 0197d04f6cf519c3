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
from tests.support.triton import FakeTriton, Inference

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
