"""A client that writes down what it saw, and nothing else: instants, status, what it was told. It trusts nobody.

Instants are `time.monotonic()` in seconds, one clock for all clients of a run.
"""

import asyncio
import time
from contextlib import suppress
from typing import Any

import httptools
import msgspec

READ_SIZE = 65536
TIMEOUT_S = 60.0


class Seen(msgspec.Struct, kw_only=True):
    """One request as its client saw it."""

    sent: float
    """Before the first byte went out."""
    connected: bool = True
    """False: nobody listened, nothing was sent."""
    first: float | None = None
    """When the first byte of an answer was in hand; None: there was none."""
    last: float
    """When the answer had ended, or the client left, or the connection was gone."""
    status: int = 0
    """0: no answer."""
    pieces: int = 0
    """Frames with generated text that had come."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    """Usage as told; None where none was."""
    whole: bool = False
    """The answer came to its end."""
    left: bool = False
    """The client hung up first."""
    code: str | None = None
    """The error's code or type, in the answer or in the stream."""
    message: str = ""
    request: str = ""
    """`x-request-id`."""


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Error(msgspec.Struct):
    message: str
    type: str
    code: str | None = None


class _Body(msgspec.Struct):
    """The parts of an answer, or of a frame, that a client looks at."""

    usage: _Usage | None = None
    error: _Error | None = None
    choices: list[Any] = []


_body = msgspec.json.Decoder(_Body).decode


class Line:
    """One kept connection to one gateway, one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, token: str, body: object, *, leave_after: int | None = None) -> Seen:
        """Ask, and hear the answer to its end, or hang up after so many pieces of it (0: at once)."""
        data = msgspec.json.encode(body)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        ).encode()
        sent = time.monotonic()
        seen = Seen(sent=sent, last=sent)
        answer = _Answer()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                seen.connected = False
                reader, writer = await self._connected()
                seen.connected = True
                seen.sent = time.monotonic()
                writer.write(head + data)
                await self._hear(reader, answer, seen, leave_after)
        except (OSError, TimeoutError, httptools.HttpParserError):
            self.close()
        seen.last = time.monotonic()
        answer.tell(seen)
        if seen.left or not seen.whole or not answer.keep:
            self.close()
        return seen

    async def _hear(self, reader: asyncio.StreamReader, answer: "_Answer", seen: Seen, leave_after: int | None) -> None:
        parser = httptools.HttpResponseParser(answer)
        while not answer.complete:
            if leave_after is not None and answer.pieces() >= leave_after:
                seen.left = True
                return
            data = await reader.read(READ_SIZE)
            if not data:
                raise ConnectionError
            if seen.first is None:
                seen.first = time.monotonic()
            parser.feed_data(data)
            answer.status, answer.keep = parser.get_status_code(), parser.should_keep_alive()
        seen.whole = True

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None or self._streams[1].is_closing() or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class _Answer:
    """What the parser calls back with."""

    def __init__(self) -> None:
        self.status = 0
        self.keep = True
        self.complete = False
        self._body = bytearray()
        self._headers: dict[bytes, bytes] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self.complete = True

    def pieces(self) -> int:
        """Frames with text so far."""
        return self._body.count(b'" mew')

    def tell(self, seen: Seen) -> None:
        """Write what was heard into `seen`."""
        seen.status, seen.pieces = self.status, self.pieces()
        seen.request = self._headers.get(b"x-request-id", b"").decode()
        for part in self._parts():
            with suppress(msgspec.DecodeError):  # a body that broke off
                said = _body(part)
                if said.usage is not None:
                    seen.prompt_tokens, seen.completion_tokens = said.usage.prompt_tokens, said.usage.completion_tokens
                if said.error is not None:
                    seen.code, seen.message = said.error.code or said.error.type, said.error.message

    def _parts(self) -> list[bytes]:
        body = bytes(self._body)
        if self._headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            return [frame[6:] for frame in body.split(b"\n\n") if frame.startswith(b"data: {")]
        return [body] if body else []
