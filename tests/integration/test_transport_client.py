"""The lean HTTP client against a raw server on loopback: every byte is the test's."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from gateway.core.errors import Unavailable, UpstreamFailed, UpstreamTimeout
from gateway.fleet.transports.client import HIGH_WATER, Client, Response, Timeouts
from lab.ports import free_port
from tests.support.eventually import eventually

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n"
QUICK = Timeouts(0.5, 0.3, 0.3)


async def heard(reader: asyncio.StreamReader) -> bytes:
    """One request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


@asynccontextmanager
async def serving(handler: Handler, timeouts: Timeouts = QUICK) -> AsyncIterator[tuple[Client, list[int]]]:
    """A client of a server that hands each connection to `handler`; the list has one entry a connection."""
    connections: list[int] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await handler(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    client = Client("127.0.0.1", server.sockets[0].getsockname()[1], timeouts)
    try:
        yield client, connections
    finally:
        client.close()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
        await eventually(lambda: client.connections == 0, what="the end of all connections")


async def whole(response: Response) -> bytes:
    parts = []
    while part := await response.read():
        parts.append(part)
    return b"".join(parts)


def saying(*answers: bytes) -> Handler:
    """Each request on a connection gets the next of these, the last one for ever."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for i in range(1000):
            await heard(reader)
            writer.write(answers[min(i, len(answers) - 1)])

    return handler


async def test_a_connection_is_kept_and_used_again() -> None:
    async with serving(saying(OK, CHUNKED, OK)) as (client, connections):
        assert [await whole(await client.post("/x", b"{}")) for _ in range(3)] == [b"hello", b"hello world", b"hello"]
        assert len(connections) == client.connections == 1


async def test_the_request_names_host_length_and_extra_headers() -> None:
    seen: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await heard(reader))
        writer.write(OK)

    async with serving(handler) as (client, _):
        await whole(await client.post("/v2/models/m/generate_stream", b'{"a":1}', b"traceparent: t\r\n"))
    assert seen[0].startswith(b"POST /v2/models/m/generate_stream HTTP/1.1\r\nHost: 127.0.0.1:")
    assert seen[0].endswith(b'Content-Length: 7\r\ntraceparent: t\r\n\r\n{"a":1}')


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n"])
async def test_a_chunked_answer_is_the_same_wherever_it_is_cut(interim: bytes) -> None:
    data = interim + CHUNKED
    place = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await heard(reader)
            writer.write(data[:place])
            await asyncio.sleep(0.002)
            writer.write(data[place:])

    async with serving(handler) as (client, connections):
        for place in range(1, len(data), 3):
            response = await client.post("/x", b"{}")
            assert (response.status, await whole(response)) == (200, b"hello world"), place
        assert len(connections) == 1


async def test_a_kept_connection_that_the_server_has_closed_is_replaced_unseen() -> None:
    async def one_answer_each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        writer.write(OK)
        await heard(reader)  # and hangs up without a word

    async with serving(one_answer_each) as (client, connections):
        for _ in range(3):
            assert await whole(await client.post("/x", b"{}")) == b"hello"
        assert len(connections) == 3


async def test_a_new_connection_that_says_nothing_is_not_tried_again() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)

    async with serving(mute) as (client, connections):
        with pytest.raises(UpstreamFailed):
            await client.post("/x", b"{}")
        assert len(connections) == 1


async def test_an_answer_that_asks_to_close_is_not_kept() -> None:
    async with serving(saying(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))) as (client, connections):
        assert [await whole(await client.post("/x", b"{}")) for _ in range(2)] == [b"hello"] * 2
        assert len(connections) == 2


@pytest.mark.parametrize(
    "nonsense",
    [
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx",
    ],
)
async def test_what_is_not_http_is_the_servers_failure(nonsense: bytes) -> None:
    async with serving(saying(nonsense)) as (client, _):
        with pytest.raises((UpstreamFailed, UpstreamTimeout)):
            await whole(await client.post("/x", b"{}"))
        await eventually(lambda: client.connections == 0, what="the connection's end")


async def test_a_body_that_breaks_off_gives_what_came_and_then_the_failure() -> None:
    async with serving(saying(OK[:-2])) as (client, _):
        response = await client.post("/x", b"{}")
        assert await response.read() == b"hel"
        with pytest.raises(UpstreamTimeout):
            await response.read()
        await eventually(lambda: client.connections == 0, what="the connection's end")


async def test_a_server_that_says_nothing_is_a_timeout() -> None:
    async with serving(saying(b"")) as (client, _):
        began = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamTimeout):
            await client.post("/x", b"{}")
        assert 0.25 < asyncio.get_running_loop().time() - began < 1
        assert client.connections == 0 or await eventually(lambda: client.connections == 0)


async def test_silence_after_the_first_bytes_is_noticed_after_the_time_between_reads() -> None:
    async with serving(saying(OK[:-2]), Timeouts(1, 30, 0.2)) as (client, _):
        response = await client.post("/x", b"{}")
        assert await response.read() == b"hel"
        began = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamTimeout):
            await response.read()
        assert asyncio.get_running_loop().time() - began < 1


async def test_a_trickle_is_no_silence() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        for byte in OK:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.015)

    async with serving(trickle) as (client, _):
        assert await whole(await client.post("/x", b"{}")) == b"hello"


async def test_nobody_there_is_unavailable() -> None:
    client = Client("127.0.0.1", free_port(), QUICK)
    with pytest.raises(Unavailable):
        await client.post("/x", b"{}")


async def test_a_reader_that_falls_behind_pauses_the_server_and_loses_nothing() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await heard(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (32 << 20))
        for _ in range(512):
            writer.write(b"x" * 65_536)
            await writer.drain()
            sent += 65_536
        await heard(reader)

    async with serving(flood) as (client, connections):
        response = await client.post("/x", b"{}")
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.4)  # longer than the timeout between reads: a slow reader is no silent server
        assert sent < 16 << 20
        assert len(await response.read()) < HIGH_WATER + (1 << 20)
        total = len(await whole(response))
        assert total > 24 << 20
        assert len(connections) == 1


async def test_a_response_given_up_ends_its_connection_at_once() -> None:
    gone = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        writer.write(CHUNKED[:60])
        await reader.read(1)
        gone.set()

    async with serving(endless, Timeouts(1, 30, 30)) as (client, _):
        response = await client.post("/x", b"{}")
        response.close()
        response.close()
        await asyncio.wait_for(gone.wait(), 1)
        assert client.connections == 0


async def test_a_request_cancelled_before_its_head_ends_its_connection() -> None:
    gone = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        await reader.read(1)
        gone.set()

    async with serving(mute, Timeouts(1, 30, 30)) as (client, _):
        asked = asyncio.create_task(client.post("/x", b"{}"))
        await asyncio.sleep(0.05)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await asyncio.wait_for(gone.wait(), 1)


async def test_a_drained_response_that_ends_soon_leaves_its_connection_for_the_next() -> None:
    async def late_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await heard(reader)
            writer.write(CHUNKED[:-5])
            await asyncio.sleep(0.05)
            writer.write(CHUNKED[-5:])

    async with serving(late_end) as (client, connections):
        for _ in range(3):
            response = await client.post("/x", b"{}")
            await response.read()
            response.drain()
            await eventually(functools.partial(getattr, response, "complete"), what="the end of the drain")
        assert len(connections) == 1


async def test_a_drained_response_that_does_not_end_is_cut_off() -> None:
    async with serving(saying(CHUNKED[:-5]), Timeouts(1, 30, 30)) as (client, _):
        response = await client.post("/x", b"{}")
        await response.read()
        response.drain()
        await eventually(lambda: client.connections == 0, within_s=3, what="the end of the drain")


async def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    async def chatty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        writer.write(OK)
        await asyncio.sleep(0.05)
        writer.write(OK)
        await heard(reader)

    async with serving(chatty) as (client, connections):
        assert await whole(await client.post("/x", b"{}")) == b"hello"
        await eventually(lambda: client.connections == 0, what="the connection's end")
        assert await whole(await client.post("/x", b"{}")) == b"hello"
        assert len(connections) == 2


async def test_time_for_the_first_byte_of_the_body_is_not_cut_short_by_an_early_head() -> None:
    async def early_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        writer.write(OK[:-5])
        await asyncio.sleep(0.4)
        writer.write(OK[-5:])

    async with serving(early_head, Timeouts(1, 2, 0.1)) as (client, _):
        assert await whole(await client.post("/x", b"{}")) == b"hello"
