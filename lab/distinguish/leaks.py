"""Known leaks, switched on between the attacker and the gateway: each must be found, or the attacker is blind.

A proxy that passes on byte by byte what it gets, but for one key. It is no part of the gateway and cannot be.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

Edit = Callable[[bytes], bytes]
LIMIT = 1 << 20
TIMING = "timing"


def _same(data: bytes) -> bytes:
    return data


class Leak(NamedTuple):
    """`channel`: where it has to be found, `TIMING` or a name of channels.observe."""

    name: str
    channel: str
    head: Edit = _same
    body: Edit = _same
    delay_s: float = 0.0


def _swapped(head: bytes) -> bytes:
    lines = head.split(b"\r\n")
    return b"\r\n".join([lines[0], *lines[2:3], lines[1], *lines[3:]]) if len(lines) > 2 else head


def _one_token_more(body: bytes) -> bytes:
    return re.sub(rb'("prompt_tokens":)(\d+)', lambda found: b"%b%d" % (found[1], int(found[2]) + 1), body)


def _keys_swapped(body: bytes) -> bytes:
    return re.sub(rb'("prompt_tokens":\d+),("completion_tokens":\d+)', rb"\2,\1", body)


def _one_fewer(head: bytes) -> bytes:
    remaining = rb"(?i)(\r\nx-ratelimit-remaining-requests: )(\d+)"
    return re.sub(remaining, lambda found: b"%b%d" % (found[1], int(found[2]) - 1), head)


LEAKS = (
    Leak("the first byte 3 ms later", TIMING, delay_s=0.003),
    Leak("two headers swapped", "header order", head=_swapped),
    Leak(
        "a header's name in capitals", "header case", head=lambda head: head.replace(b"content-type", b"Content-Type")
    ),
    Leak("a header more", "header set", head=lambda head: head + b"\r\nx-served-by: two"),
    Leak("one prompt token more in the usage", "usage", body=_one_token_more),
    Leak("another word in one error", "errors", body=lambda body: body.replace(b"Leave it out.", b"Leave it away.")),
    Leak("another finish reason", "finish reasons", body=lambda body: body.replace(b'"length"', b'"stop"')),
    Leak("one request fewer left", "limits told", head=_one_fewer),
    Leak("an id of another length", "ids", body=lambda body: body.replace(b'"id":"chatcmpl-', b'"id":"chatcmpl-0')),
    Leak("two keys of a body swapped", "body keys", body=_keys_swapped),
    Leak(
        "an empty frame more in a stream",
        "frames",
        body=lambda body: body.replace(b"data: [DONE]", b": \n\ndata: [DONE]"),
    ),
)


class Proxy:
    """Leaks for one key. Listening inside `open`; `port` is known then."""

    def __init__(self, to: int, leak: Leak, token: str) -> None:
        self._to, self._leak, self._token = to, leak, token.encode()
        self.port = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Proxy"]:
        """Serve for the length of the block."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=LIMIT)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gateway = await asyncio.open_connection("127.0.0.1", self._to, limit=LIMIT)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer, *gateway):
                    pass
        finally:
            writer.close()
            gateway[1].close()

    async def _exchange(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        asks: asyncio.StreamWriter,
    ) -> bool:
        """One request; whether the connection may be used again."""
        request = await reader.readuntil(b"\r\n\r\n")
        asks.write(request + await _body(reader, request))
        leak = self._leak if self._token in request else Leak("", "")
        head = (await answers.readuntil(b"\r\n\r\n"))[:-4]
        await asyncio.sleep(leak.delay_s)
        if b"\r\ntransfer-encoding: chunked" in head.lower():
            writer.write(leak.head(head) + b"\r\n\r\n")
            while chunk := await _chunk(answers):
                data = leak.body(chunk)
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            writer.write(b"0\r\n\r\n")
        else:
            body = leak.body(await _body(answers, head + b"\r\n"))
            length = b"\\g<1>%d" % len(body)
            writer.write(re.sub(rb"(?i)(\r\ncontent-length: )\d+", length, leak.head(head)) + b"\r\n\r\n" + body)
        await writer.drain()
        return b"\r\nconnection: close" not in head.lower()


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0].strip()
    return await reader.readexactly(int(length)) if length else b""


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    size = int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16)
    return (await reader.readexactly(size + 2))[:-2]
