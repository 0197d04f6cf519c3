"""A lean HTTP/1.1 client for one host: kept connections, one callback a socket read, bounded memory.

Connections wait in a stack (the last one used is the next one taken), so that few stay warm. A reader that falls
behind pauses the socket. All waiting is bounded by one timer a response.
"""

import asyncio
from typing import cast

import httptools

from gateway.core.errors import ApiError, Unavailable, UpstreamFailed, UpstreamTimeout

HIGH_WATER = 256 << 10
"""Unread bytes of one response at which its socket is paused."""
MAX_IDLE = 512
DRAIN_S = 1.0
"""How long a response that nobody reads any more may take to end, for its connection to be kept."""


class Timeouts:
    """Seconds: to connect, to the first byte of a response's body, and between two reads after that."""

    __slots__ = ("between", "connect", "first")

    def __init__(self, connect: float, first: float, between: float) -> None:
        self.connect = connect
        self.first = first
        self.between = between


class Response:
    """One response as it comes in. `read` gives what has arrived; `b""` is its end."""

    __slots__ = ("_chunks", "_connection", "_error", "_heard", "_limit", "_loop", "_size", "_timer", "_waiter",
                 "complete", "fresh", "header_length", "status", "timeouts")  # fmt: skip

    def __init__(self, connection: "Connection", timeouts: Timeouts) -> None:
        self._loop = connection.loop
        self._connection: Connection | None = connection
        self._chunks: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: ApiError | None = None
        self.timeouts = timeouts
        self._limit = timeouts.first
        self._heard = self._loop.time()
        self._timer = self._loop.call_later(min(timeouts.first, timeouts.between), self._check_time)
        self.status = 0  # until the head is there
        self.header_length: int | None = None  # of tensors' JSON, where the connection looks for it
        self.fresh = True  # nothing has been received yet
        self.complete = False

    async def head(self) -> int:
        """The status, once the response's head is there. Who is cancelled meanwhile has given the response up."""
        try:
            while not self.status and not self.complete:
                await self._change()
        except asyncio.CancelledError:
            self.close()
            raise
        if not self.status:
            raise self._error or UpstreamFailed("The model's server closed the connection.", detail="no response")
        return self.status

    async def read(self) -> bytes:
        """What has arrived of the body since the last read; waits for something, or the end."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self.complete:
                return b""
            await self._change()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        if self._size >= HIGH_WATER and self._connection is not None:
            self._connection.resume()
        self._size = 0
        return data

    def close(self) -> None:
        """Nobody reads on. A response that is not about to end is cut off, with its connection."""
        if self._connection is not None:
            self._connection.abandon()

    def drain(self) -> None:
        """Nobody reads on, but the response is about to end: keep the connection if it does soon."""
        if self._connection is not None:
            self._limit = DRAIN_S
            self._timer.cancel()
            self._timer = self._loop.call_later(DRAIN_S, self.close)

    # -- called by the connection

    def received(self, chunk: bytes) -> None:
        """A piece of the body."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        self._limit = self.timeouts.between
        if self._size >= HIGH_WATER and self._connection is not None:
            self._connection.pause()

    def wake(self) -> None:
        """Something has changed; tell the reader."""
        self.fresh = False
        self._heard = self._loop.time()
        self._tell()

    def end(self, error: ApiError | None = None) -> None:
        """It is whole, or broken by `error`."""
        self.complete = True
        self._error = self._error or error
        self._connection = None
        self._timer.cancel()
        self._tell()

    def _change(self) -> "asyncio.Future[None]":
        """Done when something has changed."""
        self._waiter = self._loop.create_future()
        return self._waiter

    def _tell(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _check_time(self) -> None:
        left = self._heard + self._limit - self._loop.time()
        if left <= 0.001 and self._chunks:
            left = self.timeouts.between  # a reader that is behind is not the server's silence
        if left > 0.001:
            self._timer = self._loop.call_later(left, self._check_time)
            return
        self._error = UpstreamTimeout("The model's server did not answer in time.", detail=f"silent for {self._limit}s")
        self.close()


class Connection(asyncio.Protocol):
    """One socket. At most one response at a time."""

    def __init__(self, pool: "Client") -> None:
        self._pool = pool
        self.loop = pool.loop
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser = httptools.HttpResponseParser(self)
        self.response: Response | None = None
        self._keep = False
        self._finished = False
        self._status = 0

    def request(self, data: bytes, timeouts: Timeouts) -> Response:
        """Send a request; its response."""
        assert self._transport is not None
        self.response = Response(self, timeouts)
        self._transport.write(data)
        return self.response

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """asyncio: one read of the socket."""
        response = self.response
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(UpstreamFailed("The model's server broke the HTTP protocol.", detail="http parser"))
            return
        if response is None:
            self._close()  # bytes that nobody asked for
            return
        response.wake()
        if self._finished:
            self._finish(response)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the socket is gone."""
        self._transport = None
        self._pool.forget(self)
        if self.response is not None:
            response, self.response = self.response, None
            response.end(UpstreamFailed("The model's server closed the connection.", detail="connection lost"))

    # -- httptools

    def on_headers_complete(self) -> None:
        """The status is read here and handed over with the response: the parser forgets it with the next one."""
        self._status = self._parser.get_status_code()
        if self.response is not None and self._status >= 200:
            self.response.status = self._status

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self.response is not None:
            self.response.received(body)

    def on_message_complete(self) -> None:
        """The response has ended (an interim one, 1xx, has only announced it)."""
        if self._status >= 200:
            self._keep = self._parser.should_keep_alive()
            self._finished = True

    # -- ends

    def _finish(self, response: Response) -> None:
        self._finished = False
        self.response = None
        if self._keep and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._pool.give_back(self)
        else:
            self._close()
        response.end()

    def _fail(self, error: ApiError) -> None:
        response, self.response = self.response, None
        self._close()
        if response is not None:
            response.end(error)

    def abandon(self) -> None:
        """The response is not wanted any more."""
        self._fail(UpstreamFailed("The answer was given up.", detail="abandoned"))

    def pause(self) -> None:
        """Stop reading the socket."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading it."""
        if self._transport is not None:
            self._transport.resume_reading()

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def is_open(self) -> bool:
        """Fit for another request."""
        return self._transport is not None and not self._transport.is_closing()

    def hang_up(self) -> None:
        """Close from outside."""
        self._fail(Unavailable("The gateway is stopping."))


class Client:
    """All connections of this process to one host."""

    def __init__(self, host: str, port: int, timeouts: Timeouts, connection: "type[Connection] | None" = None) -> None:
        self.loop = asyncio.get_running_loop()
        self._host, self._port = host, port
        self._timeouts = timeouts
        self._make = connection or Connection
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._host_header = f"{host}:{port}".encode()

    async def post(self, path: str, body: bytes, extra: bytes = b"") -> Response:
        """POST JSON and wait for the response's head. `extra`: whole header lines. Raises Unavailable when the host
        cannot be reached, UpstreamFailed or UpstreamTimeout when it does not answer.

        A kept connection may have been closed by the host just now: if it breaks before it has said anything, the
        request goes once more over a new one.
        """
        data = b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n%b" % (
            path.encode(), self._host_header, len(body), extra, body,
        )  # fmt: skip
        kept = self._take()
        if kept is not None:
            response = kept.request(data, self._timeouts)
            try:
                await response.head()
            except UpstreamFailed:
                if not response.fresh:
                    raise
            else:
                return response
        response = (await self._connect()).request(data, self._timeouts)
        await response.head()
        return response

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open():
                return connection
        return None

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(self._timeouts.connect):
                _, connection = await self.loop.create_connection(lambda: self._make(self), self._host, self._port)
        except (OSError, TimeoutError) as problem:
            raise Unavailable(
                "The model's server cannot be reached.", detail=type(problem).__name__, retry_after_ms=1000
            ) from problem
        self._all.add(connection)
        return connection

    def give_back(self, connection: Connection) -> None:
        """A connection is free."""
        if len(self._idle) < MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.hang_up()

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self._all.discard(connection)

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._all)

    def close(self) -> None:
        """Hang up."""
        for connection in list(self._all):
            connection.hang_up()
