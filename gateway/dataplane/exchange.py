"""One HTTP exchange over ASGI: the body in, the answer out, and whether the client is still there."""

import asyncio
from contextlib import suppress
from typing import Literal

from starlette.types import Message, Receive, Scope, Send

from gateway.core.errors import ApiError, BodyTooLarge
from gateway.telemetry import clock
from gateway.wire.dialects import dialect_of
from gateway.wire.sse import frame

Header = tuple[bytes, bytes]
Stopped = Literal["gone", "timeout", "body"]

WATCH_AFTER_S = 0.05
"""Quick answers are never watched: the watch costs a task, and starts only when a request has run for so long (from its
arrival, or from the end of a body that took longer)."""
LAST_WORDS_S = 2.0
"""The longest wait for a client that is behind to take the error that ends its stream."""

_JSON = (b"content-type", b"application/json")
_STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class Exchange:
    """See the module. `stopped` says why the task was cancelled, if it was by us."""

    __slots__ = ("_body_s", "_has_body", "_looked", "_loop", "_receive", "_send", "_started", "_task", "_timer",
                 "_watch", "arrived", "arrived_ms", "body_bytes", "dialect", "headers", "path", "peer", "request_id",
                 "request_timeout", "status", "stopped")  # fmt: skip

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, *, body_s: float, request_s: float
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._receive = receive
        self._send = send
        self._started = False
        self._watch: asyncio.Task[None] | None = None
        self._task = asyncio.current_task(loop)
        self.path: str = scope["path"]
        self.dialect = dialect_of(self.path)
        self.headers: list[Header] = scope["headers"]
        self.peer: str | None = scope["client"][0] if scope.get("client") else None
        self.request_id = request_id
        self.arrived = self._loop.time()
        self.arrived_ms = clock.now_ms()
        self.request_timeout = request_s
        self.status = 0
        self.stopped: Stopped | None = None
        self.body_bytes = 0
        self._body_s = body_s
        self._has_body = self._looked = False
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(min(body_s, WATCH_AFTER_S), self._look)

    def header(self, name: bytes) -> bytes | None:
        """The first header of this (lower-case) name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises BodyTooLarge; a client that leaves or dawdles cancels the task (`stopped`)."""
        length = self.header(b"content-length")
        if length is not None and length.isdigit() and int(length) > limit:
            raise BodyTooLarge(f"The body has {int(length)} bytes; at most {limit} are taken.")
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            body: bytes = message["body"]
        else:
            body = await self._rest(message, limit)
        if len(body) > limit:
            raise BodyTooLarge(f"The body is larger than {limit} bytes.")
        self._has_body, self.body_bytes = True, len(body)
        if self._looked:  # and found no body yet: the timer runs for that
            self._cancel_timer()
            self._timer = self._loop.call_later(WATCH_AFTER_S, self._start_watch)
        return body

    async def _rest(self, message: Message, limit: int) -> bytes:
        chunks, size = [], 0
        while True:
            if message["type"] == "http.disconnect":
                self.stopped = "gone"
                raise asyncio.CancelledError
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > limit:
                raise BodyTooLarge(f"The body is larger than {limit} bytes.")
            if not message.get("more_body"):
                return b"".join(chunks)
            message = await self._receive()

    # -- the client's leaving, and time

    def _look(self) -> None:
        """One timer for both: nearly all requests have ended when it comes."""
        self._looked = True
        if self._has_body:
            self._start_watch()
        else:
            left = self._body_s - (self._loop.time() - self.arrived)
            self._timer = self._loop.call_later(max(left, 0), self._stop, "body")

    def _start_watch(self) -> None:
        self._timer = None
        self._watch = self._loop.create_task(self._wait_until_gone())

    async def _wait_until_gone(self) -> None:
        try:
            async with asyncio.timeout_at(self.arrived + self.request_timeout):
                while (await self._receive())["type"] != "http.disconnect":
                    pass
            self._stop("gone")
        except TimeoutError:
            self._stop("timeout")

    def _stop(self, why: Stopped) -> None:
        self._timer = None
        self.stopped = why
        if self._task is not None:
            self._task.cancel()

    def was_stopped(self) -> bool:
        """In the handler of CancelledError: whether it was ours, and not the server's. Takes the cancellation back."""
        if self.stopped is None or self._task is None:
            return False
        self._task.uncancel()
        return True

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """The exchange is over."""
        self._cancel_timer()
        if self._watch is not None:
            self._watch.cancel()
        self._task = None

    # -- the answer

    def elapsed_ms(self) -> int:
        """Since the request arrived."""
        return int((self._loop.time() - self.arrived) * 1000)

    def _common(self) -> list[Header]:
        return [
            (b"x-request-id", self.request_id.encode()),
            (b"openai-processing-ms", b"%d" % self.elapsed_ms()),
        ]

    async def answer(
        self, body: bytes, headers: tuple[Header, ...] | list[Header], content_type: Header = _JSON
    ) -> None:
        """A whole answer."""
        await self._whole(200, body, headers, content_type)

    async def _whole(
        self, status: int, body: bytes, headers: tuple[Header, ...] | list[Header], content_type: Header = _JSON
    ) -> None:
        self.status, self._started = status, True
        head = [content_type, (b"content-length", b"%d" % len(body)), *self._common(), *headers]
        await self._send({"type": "http.response.start", "status": status, "headers": head})
        await self._send({"type": "http.response.body", "body": body})

    async def begin_stream(self, headers: tuple[Header, ...] | list[Header]) -> None:
        """The head of a streamed answer."""
        self.status, self._started = 200, True
        head = [*_STREAM_HEADERS, *self._common(), *headers]
        await self._send({"type": "http.response.start", "status": 200, "headers": head})

    async def write(self, data: bytes) -> None:
        """More of a streamed answer; waits while the client is behind."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end_stream(self, data: bytes) -> None:
        """The last of a streamed answer."""
        await self._send({"type": "http.response.body", "body": data})

    async def fail(self, error: ApiError, headers: tuple[Header, ...] | list[Header] = ()) -> None:
        """Tell an error: as the answer, or, when a stream has begun, as its last frame."""
        body = self.dialect.error(error)
        if self._started:
            with suppress(TimeoutError):  # a client that does not read must not hold the request for ever
                async with asyncio.timeout(LAST_WORDS_S):
                    await self.end_stream(frame(body) + self.dialect.done)
            return
        await self._whole(error.status, body, [*headers, *error_headers(error)])


def error_headers(error: ApiError) -> list[Header]:
    """`retry-after` and its kin."""
    headers = list(error.headers)
    if error.retry_after_ms is not None:
        headers.append((b"retry-after", b"%d" % -(-error.retry_after_ms // 1000)))
        headers.append((b"retry-after-ms", b"%d" % error.retry_after_ms))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers
