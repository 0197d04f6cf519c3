"""A mock Triton that costs as little CPU as Python can, so that what is measured is the gateway in front of it.

Every answer is made beforehand (triton_answers); a request costs one dictionary look-up and one write. All streams
step on one shared tick: a timer for each would cost more than the rest of the mock. `GET /counters` tells what it saw:

- `connections`: accepted so far; `generating_connections`: those that carried at least one generation
- `requests`: generations asked for; `streams`: those of them that were answered event by event
- `cancelled`: streams whose client left before the last event; `active`: streams under way

Started with a listening socket: `python -m lab.bench.mock_triton --fd N`.
"""

import argparse
import asyncio
import socket
from collections.abc import Callable
from enum import Enum, auto
from typing import cast

import uvloop

from lab.bench import triton_answers
from lab.bench.triton_answers import json_answer

MAX_REQUEST = 16 << 20  # bytes of one request, head and body; more is answered with 413


class Generation(Enum):
    """What a POST to a model starts."""

    AT_ONCE = auto()
    STREAM = auto()


class Streams:
    """The streams under way; each gets its next event at every tick. Sleeps while there are none."""

    def __init__(self, events: list[bytes], tick_s: float) -> None:
        self._events = events
        self._tick_s = tick_s
        self._next: dict[asyncio.Transport, int] = {}
        self._ticking = False
        self._due = 0.0

    def __len__(self) -> int:
        return len(self._next)

    def begin(self, transport: asyncio.Transport) -> None:
        self._next[transport] = 0
        if not self._ticking:
            loop = asyncio.get_running_loop()
            self._ticking = True
            self._due = loop.time()
            loop.call_soon(self._tick)

    def drop(self, transport: asyncio.Transport) -> bool:
        """Forget a closed connection; True if a stream was under way on it."""
        return self._next.pop(transport, None) is not None

    def _tick(self) -> None:
        for transport, n in list(self._next.items()):
            transport.write(self._events[n])
            if n + 1 < len(self._events):
                self._next[transport] = n + 1
            else:
                del self._next[transport]
        self._ticking = bool(self._next)
        if self._ticking:
            loop = asyncio.get_running_loop()
            self._due = max(self._due + self._tick_s, loop.time())  # a late tick delays the rest: no burst catches up
            loop.call_at(self._due, self._tick)


class MockTriton:
    """The answers and the counters that all connections share."""

    def __init__(self, chunks: int, tick_s: float) -> None:
        self.streams = Streams(triton_answers.stream(chunks), tick_s)
        self.at_once = triton_answers.at_once()
        self.routes = self._routes()
        self.connections = 0
        self.generating_connections = 0
        self.requests = 0
        self.streamed = 0
        self.cancelled = 0

    def counters(self) -> dict[str, int]:
        return {
            "connections": self.connections,
            "generating_connections": self.generating_connections,
            "requests": self.requests,
            "streams": self.streamed,
            "cancelled": self.cancelled,
            "active": len(self.streams),
        }

    def _routes(self) -> dict[bytes, bytes | Generation | Callable[[], bytes]]:
        """Method and path, as they stand at the start of a request, -> what answers it."""
        routes: dict[bytes, bytes | Generation | Callable[[], bytes]] = {
            b"GET " + path: answer for path, answer in triton_answers.control_answers().items()
        }
        for model, generation in ((b"mock", Generation.AT_ONCE), (b"mock-stream", Generation.STREAM)):
            for version in (b"", b"/versions/1"):
                routes[b"POST /v2/models/" + model + version + b"/generate_stream"] = generation
        routes[b"GET /counters"] = lambda: json_answer("200 OK", self.counters())
        return routes


class Connection(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection, one request at a time."""

    def __init__(self, mock: MockTriton) -> None:
        self._mock = mock
        self._buffer = b""
        self._generated = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its type
        self._mock.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._mock.cancelled += self._mock.streams.drop(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer = data = self._buffer + data if self._buffer else data
        if len(data) > MAX_REQUEST:
            self._transport.write(json_answer("413 Content Too Large", {"error": "request too large"}))
            self._transport.close()
        elif is_whole(data):
            self._buffer = b""
            self._answer(data)

    def _answer(self, request: bytes) -> None:
        answer = self._mock.routes.get(request[: request.find(b" HTTP/1.")])
        if isinstance(answer, Generation):
            self._generate(answer)
        elif answer is None:
            self._transport.write(json_answer("404 Not Found", {"error": "not found"}))
        else:
            self._transport.write(answer if isinstance(answer, bytes) else answer())

    def _generate(self, generation: Generation) -> None:
        mock = self._mock
        mock.requests += 1
        if not self._generated:
            self._generated = True
            mock.generating_connections += 1
        if generation is Generation.AT_ONCE:
            self._transport.write(mock.at_once)
        else:
            mock.streamed += 1
            mock.streams.begin(self._transport)


def is_whole(request: bytes) -> bool:
    """Whether a request has arrived with all of its body. One that is pipelined behind it would be lost: none is."""
    end = request.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = request[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at >= 0:
        length = head[at + len(b"\r\ncontent-length:") :].partition(b"\r\n")[0]
        return len(request) - end - 4 >= int(length)
    return b"\r\ntransfer-encoding: chunked" not in head or request.endswith(b"\r\n0\r\n\r\n")


async def serve(listener: socket.socket, chunks: int = 50, tick_s: float = 0.001) -> None:
    """Answer on `listener` until cancelled: streams of `chunks` events, one every `tick_s` seconds."""
    mock = MockTriton(chunks, tick_s)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(mock), sock=listener)
    try:
        await server.serve_forever()
    finally:
        server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A mock Triton for benchmarks.")
    parser.add_argument("--fd", type=int, required=True, help="an inherited listening socket")
    parser.add_argument("--chunks", type=int, default=50, help="events of one stream")
    parser.add_argument("--tick-ms", type=float, default=1.0, help="time between two events")
    options = parser.parse_args()
    uvloop.run(serve(socket.socket(fileno=options.fd), options.chunks, options.tick_ms / 1000))


if __name__ == "__main__":
    main()
