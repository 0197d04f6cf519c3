"""The mock Triton: real clients take it for one, and it counts what it saw."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import tritonclient.http.aio as triton

from lab.bench import mock_triton, traffic, triton_answers
from lab.bench.client import Client
from lab.bench.processes import listen

CHUNKS = 5
WHOLE, STREAM = "/v2/models/mock/generate_stream", "/v2/models/mock-stream/generate_stream"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    with listen() as listener:
        number: int = listener.getsockname()[1]
        server = asyncio.create_task(mock_triton.serve(listener, CHUNKS, tick_s=0.001))
        yield number
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)


async def counters(port: int) -> dict[str, int]:
    async with Client(port) as client:
        found: dict[str, int] = json.loads((await client.get("/counters")).body)
        return found


async def test_the_real_triton_client_finds_both_models_ready_and_decoupled(port: int) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{port}")
    try:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        for model in ("mock", "mock-stream"):
            assert await client.is_model_ready(model)
            assert await client.is_model_ready(model, "1")
            metadata = await client.get_model_metadata(model)
            configuration = await client.get_model_config(model)
            assert {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]}["text_input"] == "BYTES"
            assert {tensor["name"] for tensor in metadata["outputs"]} >= {"text_output", "finish_reason"}
            assert configuration["model_transaction_policy"]["decoupled"] is True
            assert configuration["max_batch_size"] == 0
        assert not await client.is_model_ready("another")
    finally:
        await client.close()


async def test_mock_answers_at_once_with_one_event_in_vllms_shape(port: int) -> None:
    async with Client(port) as client:
        answer = await client.post(WHOLE, b'{"text_input":"hi"}')
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert json.loads(answer.body.removeprefix(b"data: ")) == {
        "model_name": "mock",
        "model_version": "1",
        "finish_reason": "stop",
        "num_input_tokens": triton_answers.PROMPT_TOKENS,
        "num_output_tokens": triton_answers.AT_ONCE_TOKENS,
        "text_output": triton_answers.AT_ONCE_TEXT,
    }


async def test_mock_stream_answers_event_by_event_and_only_the_last_has_a_reason(port: int) -> None:
    async with Client(port) as client:
        answer = await client.post(STREAM, b"{}", triton_answers.FIRST_WORD.encode())
    events = [json.loads(line.removeprefix(b"data: ")) for line in answer.body.splitlines() if line]
    assert [event["text_output"] for event in events] == [f" word{n}" for n in range(CHUNKS)]
    assert [event["finish_reason"] for event in events] == ["None"] * (CHUNKS - 1) + ["stop"]
    assert traffic.text_of(answer.body) == " word0 word1 word2 word3 word4"
    assert answer.first_s is not None
    assert answer.first_s < answer.total_s


async def test_a_connection_is_kept_and_requests_on_it_are_counted(port: int) -> None:
    async with Client(port) as client:
        for path in (WHOLE, STREAM, WHOLE, "/v2/models/mock/versions/1/generate_stream"):
            assert (await client.post(path, b"{}")).status == 200
    found = await counters(port)
    assert found == {
        "connections": 2,
        "generating_connections": 1,
        "requests": 4,
        "streams": 1,
        "cancelled": 0,
        "active": 0,
    }


async def test_a_client_that_leaves_in_mid_stream_is_counted_as_a_cancellation(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"POST {STREAM} HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    await reader.readuntil(b" word0")
    writer.transport.abort()
    deadline = asyncio.get_running_loop().time() + 5
    while (found := await counters(port))["active"]:
        assert asyncio.get_running_loop().time() < deadline
    assert found["cancelled"] == 1


async def test_an_unknown_path_is_not_found(port: int) -> None:
    async with Client(port) as client:
        assert (await client.post("/v2/models/other/generate_stream", b"{}")).status == 404
        assert (await client.get("/v2/repository/index")).status == 404


async def test_a_request_that_is_too_large_is_refused_and_its_connection_closed(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v2/models/mock/generate_stream HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n")
    writer.write(b" " * (mock_triton.MAX_REQUEST + 1))
    assert (await reader.readline()).split()[1] == b"413"
    writer.close()


@pytest.mark.parametrize("size", [1, 2, 7, 50])
async def test_a_request_may_come_in_pieces(port: int, size: int) -> None:
    request = f"POST {WHOLE} HTTP/1.1\r\nHost: a\r\nContent-Length: 18\r\n\r\n".encode() + b'{"text_input":"a"}'
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for start in range(0, len(request), size):
        writer.write(request[start : start + size])
        await asyncio.sleep(0)
    assert (await reader.readline()).split()[1] == b"200"
    writer.close()
    assert (await counters(port))["requests"] == 1


@pytest.mark.parametrize(
    ("request_bytes", "whole"),
    [
        (b"GET / HTTP/1.1\r\n", False),
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nCONTENT-LENGTH: 3\r\n\r\nab", False),
        (b"POST / HTTP/1.1\r\nContent-Length:3\r\n\r\nabc", True),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", False),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", True),
    ],
)
def test_the_end_of_a_request_is_known_by_its_framing(request_bytes: bytes, whole: bool) -> None:
    assert mock_triton.is_whole(request_bytes) is whole
