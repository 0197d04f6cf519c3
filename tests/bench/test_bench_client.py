"""The small client, and how generated text is read from any peer's answer."""

import asyncio
import json

import pytest

from lab.bench import traffic
from lab.bench.client import Client
from lab.bench.processes import listen


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def test_the_text_of_a_whole_answer_is_read() -> None:
    assert traffic.text_of(b'{"choices":[{"message":{"role":"assistant","content":"meow"}}]}') == "meow"


def test_the_text_of_a_stream_is_read_past_role_usage_and_end() -> None:
    body = (
        event(choices=[{"delta": {"role": "assistant", "content": ""}}])
        + event(choices=[{"delta": {"content": "me"}}])
        + event(choices=[{"delta": {"content": "ow"}}])
        + event(choices=[{"delta": {}, "finish_reason": "stop"}])
        + event(choices=[], usage={"total_tokens": 3})
        + b"data: [DONE]\n\n"
    )
    assert traffic.text_of(body) == "meow"


@pytest.mark.parametrize("body", [b"", b"{", b'{"error":{"message":"no"}}', b'data: {"error":{}}\n\n'])
def test_an_error_is_no_text(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        traffic.text_of(body)


def test_a_prompt_is_about_a_kilobyte() -> None:
    assert 900 < len(traffic.chat(stream=False)) < 1400
    assert json.loads(traffic.chat(stream=True))["stream_options"] == {"include_usage": True}


async def test_a_server_that_closes_in_mid_answer_is_an_error() -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    with listen() as listener:
        port = listener.getsockname()[1]
        async with await asyncio.start_server(half, sock=listener), Client(port) as client:
            with pytest.raises(ConnectionError, match="in mid-answer"):
                await client.get("/")


async def test_a_server_that_says_nothing_is_not_waited_for_longer_than_told() -> None:
    with listen() as listener:
        async with Client(listener.getsockname()[1], timeout_s=0.05) as client:
            with pytest.raises(TimeoutError):
                await client.get("/")
