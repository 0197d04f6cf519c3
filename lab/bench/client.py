"""A small HTTP client over asyncio streams: one kept-alive connection, one request at a time, and when bytes came."""

import asyncio
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

import httptools
import msgspec

READ_SIZE = 65536


class Answer(msgspec.Struct, kw_only=True):
    """A whole response. `first_s`: seconds from sending to the first read in which `marker` (of the request) had come
    in the body, None if it never did. `total_s`: seconds to the last byte."""

    status: int
    headers: dict[str, str]
    body: bytes
    first_s: float | None
    total_s: float


class Client:
    """`async with Client(port) as client: answer = await client.post(...)`; loopback only."""

    def __init__(self, port: int, key: str = "", timeout_s: float = 30.0) -> None:
        self._port = port
        self._key = key
        self._timeout_s = timeout_s
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
        with suppress(ConnectionError):  # the server may have closed it first
            await self._writer.wait_closed()

    async def post(self, path: str, body: bytes, marker: bytes = b"") -> Answer:
        return await self._ask("POST", path, body, marker)

    async def get(self, path: str) -> Answer:
        return await self._ask("GET", path, b"", b"")

    async def _ask(self, method: str, path: str, body: bytes, marker: bytes) -> Answer:
        """Raises ConnectionError if the server closes in mid-answer, TimeoutError after `timeout_s`."""
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Length: {len(body)}\r\n"
        if self._key:
            head += f"Authorization: Bearer {self._key}\r\n"
        if body:
            head += "Content-Type: application/json\r\n"
        start = time.perf_counter()
        self._writer.write(head.encode() + b"\r\n" + body)
        collected = _Collected()
        parser = httptools.HttpResponseParser(collected)
        first_s: float | None = None
        async with asyncio.timeout(self._timeout_s):
            while not collected.complete:
                data = await self._reader.read(READ_SIZE)
                if not data:
                    raise ConnectionError("The server closed the connection in mid-answer.")
                parser.feed_data(data)
                if first_s is None and collected.body and marker in collected.body:
                    first_s = time.perf_counter() - start
        return Answer(
            status=parser.get_status_code(),
            headers=collected.headers,
            body=bytes(collected.body),
            first_s=first_s,
            total_s=time.perf_counter() - start,
        )


class _Collected:
    """What the parser calls back with."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True
