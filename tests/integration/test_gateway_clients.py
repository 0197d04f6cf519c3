"""Clients that leave, dawdle, send too much, or try their luck."""

import asyncio
import json

import pytest

from tests.support.eventually import eventually
from tests.support.gateways import MAX_BODY, PEPPER, World, in_the_world
from tests.support.http import exchange, receive, request_bytes, send
from tests.support.triton import Generation, event

pytestmark = in_the_world

SOON_S = 2.0


async def word_by_word(generation: Generation) -> None:
    """A token every 20 ms, until the gateway hangs up."""
    while not generation.gone.is_set():
        await generation.send(event("x"))
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_during_prefill_frees_the_gpu_and_is_charged_for_its_prompt(
    world: World, stream: bool
) -> None:
    async def prefill(generation: Generation) -> None:
        await generation.gone.wait()

    world.tritons[0].behave = prefill
    key = await world.key("wide")
    chat = {"model": "solo", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    _, writer = await send(
        world.gateway.port,
        request_bytes(
            "/v1/chat/completions", json.dumps(chat).encode(), headers={"Authorization": f"Bearer {key.token}"}
        ),
    )
    await eventually(lambda: world.tritons[0].generations, what="the generation")
    writer.transport.abort()
    await asyncio.wait_for(world.tritons[0].generations[0].gone.wait(), SOON_S)
    record = await world.event(key)
    assert (record.outcome, record.status, record.completion_tokens) == ("cancelled", 499, 0)
    assert await world.used(key, "tokens_per_minute") == record.prompt_tokens == len("user: hi\n")
    assert await world.used(key, "requests_per_minute") == 1


async def test_a_client_that_leaves_in_mid_stream_pays_for_what_was_generated_and_no_more(world: World) -> None:
    world.tritons[0].behave = word_by_word
    key = await world.key("wide")
    answer = await world.gateway.chat(key.token, model="solo", stream=True, max_tokens=1000)
    seen = 0
    async for _ in answer.events():
        seen += 1
        if seen == 10:
            break
    answer.leave()
    await asyncio.wait_for(world.tritons[0].generations[0].gone.wait(), SOON_S)
    record = await world.event(key)
    assert (record.outcome, record.status) == ("cancelled", 200)
    assert 9 <= record.completion_tokens <= 30
    assert await world.used(key, "tokens_per_minute") == record.prompt_tokens + record.completion_tokens
    await world.nothing_held()


async def test_a_client_that_leaves_one_of_several_choices_frees_them_all(world: World) -> None:
    world.tritons[0].behave = word_by_word
    key = await world.key()
    answer = await world.gateway.chat(key.token, model="solo", stream=True, n=3, max_tokens=1000)
    answer.leave()
    for generation in world.tritons[0].generations:
        await asyncio.wait_for(generation.gone.wait(), SOON_S)
    assert (await world.event(key)).outcome == "cancelled"


async def test_a_client_that_does_not_read_slows_the_generation_down_and_fills_no_memory(world: World) -> None:
    sent = 0

    async def flood(generation: Generation) -> None:
        nonlocal sent
        while not generation.gone.is_set() and sent < 64 << 20:
            await generation.send(event("x" * 65_536))
            sent += 65_536

    world.tritons[0].behave = flood
    key = await world.key()
    answer = await world.gateway.chat(key.token, model="solo", stream=True, max_tokens=1000)
    before = -1
    while before != sent:  # until the sockets and the gateway's bounded buffers are full
        before = sent
        await asyncio.sleep(0.3)
    assert 0 < sent < 32 << 20
    answer.leave()
    await asyncio.wait_for(world.tritons[0].generations[0].gone.wait(), SOON_S)
    assert (await world.event(key)).outcome == "cancelled"


@pytest.mark.slow
async def test_a_client_that_never_reads_does_not_hold_its_request_for_ever(world: World) -> None:
    async def flood(generation: Generation) -> None:
        while not generation.gone.is_set():
            await generation.send(event("x" * 65_536))

    world.tritons[0].behave = flood
    key = await world.key()
    answer = await world.gateway.chat(key.token, model="solo", stream=True, max_tokens=1000)
    assert (await eventually(lambda: world.events(key), within_s=8, what="the end"))[0].outcome == "timeout"

    async def none_in_flight() -> bool:
        return await world.gateway.metric("catflap_in_flight_requests") == 0

    await eventually(none_in_flight, within_s=8, what="the end of the request's task")
    answer.leave()


async def test_a_body_that_is_too_large_is_refused_whether_announced_or_not(world: World) -> None:
    key = await world.key()
    announced = await world.gateway.post("/v1/chat/completions", key.token, b" " * (MAX_BODY + 1))
    assert announced.status == 413
    head = request_bytes("/v1/chat/completions", headers={"Authorization": f"Bearer {key.token}"})
    head = head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    chunk = b" " * 4096
    chunked = await exchange(world.gateway.port, head + (b"1000\r\n%b\r\n" % chunk) * (MAX_BODY // 4096 + 1))
    assert chunked.status == 413
    assert (await chunked.json())["error"]["code"] == "request_too_large"


async def test_a_body_that_does_not_come_is_a_timeout_and_the_connection_closes(world: World) -> None:
    key = await world.key()
    data = request_bytes("/v1/chat/completions", b"{" + b" " * 99, headers={"Authorization": f"Bearer {key.token}"})
    reader, writer = await send(world.gateway.port, data[:-50])
    answer = await asyncio.wait_for(receive(reader, writer), 3)
    assert (answer.status, (await answer.json())["error"]["code"]) == (408, "request_timeout")
    assert await asyncio.wait_for(reader.read(), 3) == b""


async def test_a_body_that_is_not_json_is_refused_without_being_repeated(world: World) -> None:
    key = await world.key()
    for body in (b"", b"{", b"[1]", b"\xff\xfe", b'{"planted secret', b"[" * 20_000, b'{"model": "demo"}'):
        answer = await world.gateway.post("/v1/chat/completions", key.token, body)
        text = await answer.body()
        assert answer.status == 400, body[:20]
        error = json.loads(text)["error"]
        assert error["type"] == "invalid_request_error"
        assert "planted" not in text.decode()


async def test_unknown_urls_and_wrong_methods_are_told_in_openais_shape(world: World) -> None:
    key = await world.key()
    for path in ("/v1/nothing", "/v3/models/demo/load", "/v1/chat/completions/", "/livez/", "/"):
        answer = await world.gateway.post(path, key.token, {})
        assert answer.status == 404, path
        assert (await answer.json())["error"]["code"] == "unknown_url"
    wrong = await world.gateway.get("/v1/chat/completions", key.token)
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")
    assert (await wrong.json())["error"]["code"] == "method_not_allowed"
    deleted = await exchange(world.gateway.port, request_bytes("/v1/models", method="DELETE"))
    assert deleted.status == 405


@pytest.mark.parametrize(
    "host", ["livez", "evil.example/livez", "127.0.0.1:8081", "gateway/v1/models?", "a@b:1/livez#"]
)
async def test_a_host_header_decides_nothing(world: World, host: str) -> None:
    """CVE-2026-48710, CVE-2026-49468: a Host header that poisons the URL by which paths are authorised."""
    for path, method, status in (
        ("/v1/models", "GET", 401),
        ("/v1/chat/completions", "POST", 401),
        ("/livez/", "GET", 404),
        ("//evil.example/livez", "GET", 404),
    ):
        answer = await exchange(world.gateway.port, request_bytes(path, method=method, headers={"Host": host}))
        body = await answer.body()
        assert answer.status == status, (path, body)
        assert b"evil" not in body
        assert "location" not in answer.headers


async def test_neither_secrets_nor_texts_are_found_in_logs_metrics_or_redis(world: World) -> None:
    async def speak(generation: Generation) -> None:
        await generation.say("planted completion")

    async def err(generation: Generation) -> None:
        await generation.send({"error": "planted in Triton"})
        await generation.end()

    key = await world.key("wide")
    planted = {
        "messages": [{"role": "user", "content": "planted prompt"}],
        "user": "planted user",
        "stop": ["planted stop"],
    }
    for behave in (speak, err):
        world.tritons[0].behave = world.tritons[1].behave = behave
        await (await world.gateway.chat(key.token, **planted)).body()
        await (await world.gateway.chat(key.token, stream=True, **planted)).body()
    await world.gateway.chat(key.token, planted_field="planted value")
    await world.gateway.chat("cf-planted-token", **planted)
    await world.gateway.post("/v1/chat/completions?key=planted", key.token, b'{"planted')

    async def recorded() -> bool:
        return len(await world.events(key)) == 4

    await eventually(recorded, what="four events")
    await eventually(lambda: world.gateway.log.read_text().count(key.record.id) >= 4, what="the access lines")
    texts = [world.gateway.log.read_text(), await world.gateway.metrics()]
    for name in await world.redis.keys():
        texts.append((await world.redis.dump(name)).decode("latin-1") + name.decode())
        if await world.redis.type(name) == b"stream":
            texts.append(str(await world.redis.xrange(name)))
    secret = key.token[20:53]
    for text in texts:
        for forbidden in ("planted", secret, PEPPER, "traceparent"):
            assert forbidden not in text


async def test_the_clients_trace_goes_on_to_triton_and_nothing_else_of_its_headers_does(world: World) -> None:
    key = await world.key()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = {"model": "solo", "messages": [{"role": "user", "content": "hi"}]}
    answer = await world.gateway.post("/v1/chat/completions", key.token, body, traceparent=trace, Cookie="planted=1")
    assert answer.status == 200
    head = world.tritons[0].generations[0].head
    assert f"traceparent: {trace}" in head
    assert "planted" not in head
    assert key.token not in head


async def test_a_trace_header_cannot_smuggle_lines_into_tritons_request(world: World) -> None:
    key = await world.key()
    body = {"model": "solo", "messages": [{"role": "user", "content": "hi"}]}
    answer = await world.gateway.post("/v1/chat/completions", key.token, body, traceparent="x\x0bY: 1\x85")
    assert answer.status in (200, 400)
    assert (await world.gateway.chat(key.token)).status == 200
