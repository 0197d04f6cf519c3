"""What a stranger can do before there is a request: heads that are too large, too slow, or no HTTP at all."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn

from gateway.dataplane import server
from gateway.dataplane.server import BoundedProtocol
from tests.support.eventually import eventually


async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    """Answers with the size of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = b"%d" % size
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """A server with the protocol; its port."""
    config = uvicorn.Config(app, port=0, http=BoundedProtocol, lifespan="off", log_config=None, ws="none")
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve())
    await eventually(lambda: running.started)
    try:
        yield running.servers[0].sockets[0].getsockname()[1]
    finally:
        running.should_exit = True
        await task


async def said(port: int, *pieces: bytes) -> bytes:
    """All that the server says to these bytes, until it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 5)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def told(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"] or json.loads(body)["error"]["type"]


async def test_a_head_without_end_is_refused_at_its_bound() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\n")
        sent = 0
        while sent < 50 * server.MAX_HEAD_BYTES and not reader.at_eof():
            writer.write(b"x-filler: " + b"y" * 8000 + b"\r\n")
            sent += 8000
            try:
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.sleep(0)
        answer = await asyncio.wait_for(_rest(reader), 5)
        writer.close()
    assert sent < 50 * server.MAX_HEAD_BYTES
    assert answer == b"" or told(answer) == (431, "request_head_too_large")


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


async def test_a_large_body_behind_a_small_head_is_no_large_head() -> None:
    body = b"x" * (4 * server.MAX_HEAD_BYTES)
    head = b"POST / HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with serving() as port:
        assert (await said(port, head + body)).endswith(b"\r\n\r\n%d" % len(body))


@pytest.mark.parametrize("before", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: h\r\n\r\nGET / HTTP/1.1\r\nx: "])
async def test_a_head_that_does_not_come_in_time_ends_the_connection(
    before: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.2)
    async with serving() as port:
        answer = await said(port, before)
    if before:
        assert told(answer[answer.rindex(b"HTTP/1.1 ") :]) == (408, "request_timeout")
    else:
        assert answer == b""


async def test_a_kept_connection_may_rest_between_two_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_S", 0.1)
    request = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(request)
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n0"), 5)).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.3)
        writer.close()


async def test_what_is_no_http_is_told_in_the_one_shape_of_errors() -> None:
    async with serving() as port:
        assert told(await said(port, b"\x16\x03\x01 not http\r\n\r\n")) == (400, "invalid_request_error")


async def test_connections_past_the_bound_are_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    async with serving() as port:
        _, first = await asyncio.open_connection("127.0.0.1", port)
        assert await said(port) == b""
        first.close()


async def first_read(port: int, request: bytes) -> bytes:
    """What a client finds at its first look once anything has come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    found = await asyncio.wait_for(reader.read(65536), 5)
    writer.close()
    return found


async def test_a_head_and_the_first_bytes_behind_it_come_together() -> None:
    async with serving() as port:
        for _ in range(20):
            assert (await first_read(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).endswith(b"\r\n\r\n0")


async def test_a_head_without_a_body_is_not_held() -> None:
    async with serving() as port:
        found = await first_read(port, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert found.startswith(b"HTTP/1.1 200 OK")
        assert found.endswith(b"\r\n\r\n")


async def test_answers_to_requests_sent_at_once_keep_their_order() -> None:
    async with serving() as port:
        sizes = [3, 0, 5]
        asked = [b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (n, b"x" * n) for n in sizes]
        last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        answers = (await said(port, b"".join([*asked, last]))).split(b"HTTP/1.1 200 OK")[1:]
        assert [int(answer.rsplit(b"\r\n\r\n", 1)[1]) for answer in answers] == [*sizes, 0]


async def test_who_waits_to_be_asked_for_the_body_is_asked() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"xx")
        assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert await asyncio.wait_for(reader.readexactly(1), 5) == b"2"
        writer.close()
