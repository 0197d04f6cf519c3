"""A raw HTTP/1.1 client: tests decide on each byte, and when to leave."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any


class Answer:
    """One response: its head is there, its body still comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int, head: str) -> None:
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self.status = status
        self.headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.splitlines())
        }

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, the transfer coding taken off."""
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(await self._reader.readline() or b"0", 16):
                yield (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readline()
        else:
            yield await self._reader.readexactly(int(self.headers.get("content-length", "0")))

    async def body(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    async def json(self) -> Any:
        return json.loads(await self.body())

    async def events(self) -> AsyncIterator[str]:
        """The data of each server-sent event."""
        rest = b""
        async for chunk in self.chunks():
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                yield event.decode().removeprefix("data: ")

    def leave(self) -> None:
        """Hang up, whatever is still to come."""
        self._writer.transport.abort()

    def __del__(self) -> None:
        if not self._loop.is_closed():
            self.leave()


def request_bytes(
    path: str, body: bytes = b"", *, method: str = "POST", headers: Mapping[str, str] | None = None
) -> bytes:
    given = {"Host": "gateway", "Content-Length": str(len(body)), "Content-Type": "application/json", **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


async def send(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A new connection on which `data` has been sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Answer:
    """The head of the next response on a connection."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except BaseException:
        writer.transport.abort()
        raise
    line, _, rest = head.partition("\r\n")
    return Answer(reader, writer, int(line.split(" ")[1]), rest.strip())


async def exchange(port: int, data: bytes) -> Answer:
    return await receive(*await send(port, data))
