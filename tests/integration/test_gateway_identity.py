"""What a credential is held to, as clients of real gateways meet it: endpoints, models, addresses, rotation, tokens."""

import asyncio
import time
from typing import Any

import pytest

from gateway.identity.issue import IssuedKey, Rotated, revoke_key, rotate_key
from gateway.quota.client import connect_redis
from tests.support.eventually import eventually
from tests.support.gateways import PARTITIONS, PEPPER, World, in_the_world
from tests.support.http import exchange, request_bytes
from tests.support.issuers import WORLD_KEY

pytestmark = in_the_world


async def rotated(world: World, key: IssuedKey, overlap_ms: int) -> Rotated:
    redis = connect_redis(world.redis_server.url, timeout_s=2)
    try:
        found = await rotate_key(world.database, redis, PARTITIONS, PEPPER.encode(), key.record.id, overlap_ms)
    finally:
        await redis.aclose()
    assert isinstance(found, Rotated)
    return found


async def test_a_key_for_one_endpoint_is_refused_at_the_others_and_its_body_is_not_read(world: World) -> None:
    key = await world.key(scopes=["completions"])
    refused = await world.gateway.chat(key.token)
    error = (await refused.json())["error"]
    assert (refused.status, error["code"], error["param"]) == (403, "insufficient_scope", None)
    assert "it is for completions" in error["message"]
    assert (await world.gateway.post("/v1/chat/completions", key.token, b"{no json")).status == 403
    body = {"model": "demo", "prompt": "hi", "max_tokens": 5}
    assert (await world.gateway.post("/v1/completions", key.token, body)).status == 200
    assert (await world.gateway.get("/v1/models", key.token)).status == 200  # lists need no scope
    assert len(await world.events(key)) <= 1


async def test_models_that_a_key_may_not_use_do_not_exist_for_it(world: World) -> None:
    key = await world.key(models=["solo"])
    listed = await (await world.gateway.get("/v1/models", key.token)).json()
    assert [model["id"] for model in listed["data"]] == ["solo"]
    for name in ("demo", "no such model"):
        shown = await world.gateway.get(f"/v1/models/{name.replace(' ', '%20')}", key.token)
        told = (await shown.json())["error"]
        assert (shown.status, told["code"]) == (404, "model_not_found")
        # Nothing about the rest of a request tells whether the model is there: not even a field that it cannot do.
        rest: tuple[dict[str, Any], ...] = ({}, {"tools": [{}]}, {"max_tokens": 10**9}, {"messages": [{}]})
        for more in rest:
            refused = await world.gateway.chat(key.token, model=name, **more)
            error = (await refused.json())["error"]
            if refused.status == 404:
                assert error == {**told, "param": "model"}
            same = await world.gateway.chat(key.token, model="zzz" + name, **more)
            assert refused.status == same.status
            assert error["message"].replace(name, "") == (await same.json())["error"]["message"].replace(
                "zzz" + name, ""
            )
    assert (await world.gateway.chat(key.token, model="solo")).status == 200


async def test_a_key_is_taken_from_its_addresses_alone_by_the_word_of_our_proxy(world: World) -> None:
    """The world's gateways trust a proxy on 127.0.0.1, which is where the tests connect from."""
    key = await world.key(addresses=["203.0.113.0/24", "2001:db8::/32"])
    good = ("203.0.113.7", "198.51.100.1, 203.0.113.7", "2001:db8::1", "203.0.113.7:99")
    bad = ("198.51.100.1", "203.0.113.7, 198.51.100.1", "unknown", "", "203.0.113.7, unknown")
    for forwarded, status in (*((hop, 200) for hop in good), *((hop, 403) for hop in bad)):
        answer = await world.gateway.get("/v1/models", key.token, **{"X-Forwarded-For": forwarded})
        assert answer.status == status, forwarded
        if status == 403:
            error = (await answer.json())["error"]
            assert error["code"] == "address_not_allowed"
            assert "203.0.113" not in error["message"]
    refused = await world.gateway.post("/v1/chat/completions", key.token, {}, **{"X-Forwarded-For": "198.51.100.1"})
    assert (refused.status, (await refused.json())["error"]["code"]) == (403, "address_not_allowed")
    for name in ("Forwarded", "X-Real-IP", "True-Client-IP", "CF-Connecting-IP"):
        assert (await world.gateway.get("/v1/models", key.token, **{name: "203.0.113.7"})).status == 403


async def test_a_rotated_keys_new_secret_works_at_once_and_the_old_one_until_the_overlap_ends(world: World) -> None:
    key = await world.key()
    for gateway in world.gateways:
        assert (await gateway.chat(key.token)).status == 200
    await asyncio.sleep(1.1)  # a key that was loaded within a second is not asked for again
    second = await rotated(world, key, 3000)
    for gateway in world.gateways:
        for token in (second.token, key.token):
            assert (await gateway.chat(token)).status == 200
    assert second.record.old_until_ms is not None
    await asyncio.sleep(max(0.0, second.record.old_until_ms / 1000 - time.time()) + 0.05)
    for gateway in world.gateways:
        assert (await gateway.chat(key.token)).status == 401
        assert (await gateway.chat(second.token)).status == 200
    assert {event.key for event in await world.events(key)} == {key.record.id}


async def test_revoking_a_rotated_key_stops_both_secrets_at_their_next_request(world: World) -> None:
    key = await world.key()
    second = await rotated(world, key, 60_000)
    for token in (key.token, second.token):
        assert (await world.gateway.chat(token)).status == 200
    redis = connect_redis(world.redis_server.url, timeout_s=2)
    await revoke_key(world.database, redis, PARTITIONS, key.record.id)
    await redis.aclose()
    for gateway in world.gateways:
        for token in (key.token, second.token):
            assert (await gateway.chat(token)).status == 401


async def test_a_token_is_served_like_a_key_and_its_bearer_is_in_the_record(world: World) -> None:
    token = WORLD_KEY.sign(org=f"org {time.time_ns()}", plan="wide")
    answer = await world.gateway.chat(token)
    assert answer.status == 200
    assert answer.headers["x-ratelimit-limit-requests"] == "1000"
    await answer.body()
    listed = await world.gateway.get("/v1/models", token)
    assert [model["id"] for model in (await listed.json())["data"][:2]] == ["demo", "solo"]
    await eventually(lambda: "jwt:corp:prin_" in world.gateway.log.read_text(), what="the access line")
    text = world.gateway.log.read_text()
    for part in token.split("."):
        assert part not in text


async def test_two_tokens_of_one_bearer_share_its_limits_on_every_gateway(world: World) -> None:
    bearer: dict[str, Any] = {"org": f"org {time.time_ns()}", "plan": "seven_requests"}
    statuses = []
    for number in range(10):
        answer = await world.gateways[number % 2].chat(WORLD_KEY.sign(**bearer, jti=str(number)))
        statuses.append(answer.status)
        await answer.body()
    assert statuses == [200] * 7 + [429] * 3


async def test_tokens_that_are_no_good_are_401_in_one_shape(world: World) -> None:
    good = WORLD_KEY.sign(org="acme")
    bodies = set()
    for token in (
        good[:-8],
        good.rpartition(".")[0] + ".",
        WORLD_KEY.sign(org="acme", exp=1),
        WORLD_KEY.sign(org="acme", aud="other"),
        WORLD_KEY.sign(org="acme", iss="https://evil.example"),
        WORLD_KEY.sign(org="acme", plan="no such plan"),
        WORLD_KEY.sign(),
        WORLD_KEY.sign({"kid": "other"}, org="acme"),
        WORLD_KEY.sign(org="acme", padding="x" * 20_000),
    ):
        answer = await world.gateway.chat(token)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        bodies.add(await answer.body())
    assert len(bodies) == 1


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/demo", "/v1/chat/completions", "/v1/completions"])
async def test_every_route_of_the_data_plane_asks_for_a_credential(world: World, path: str) -> None:
    method = "POST" if path.endswith("completions") else "GET"
    for headers in ({}, {"Authorization": "Bearer "}, {"Authorization": "Basic eDp5"}, {"X-Api-Key": "x"}):
        answer = await exchange(world.gateway.port, request_bytes(path, method=method, headers=headers))
        assert (answer.status, (await answer.json())["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("field", ["api_base", "base_url", "endpoint", "host", "url", "proxy"])
async def test_a_client_cannot_choose_where_its_request_goes(world: World, field: str) -> None:
    """CVE-2024-6587: an upstream address of the client's choice."""
    key = await world.key()
    refused = await world.gateway.chat(key.token, **{field: "http://127.0.0.1:1"})
    error = (await refused.json())["error"]
    assert (refused.status, error["code"], error["param"]) == (400, "unsupported_parameter", field)
    headers = {"X-Upstream": "http://127.0.0.1:1", "X-Api-Base": "http://127.0.0.1:1", "X-Forwarded-Host": "evil"}
    body = {"model": "solo", "messages": [{"role": "user", "content": "hi"}]}
    assert (await world.gateway.post("/v1/chat/completions", key.token, body, **headers)).status == 200
