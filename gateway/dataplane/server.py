"""uvicorn's HTTP protocol with what it leaves open bounded: how long and how large a request's head may be, and how
many connections there are. A stranger needs no key to send a head, so these bounds are all there is at that point."""

import asyncio
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.core.errors import ApiError, HeadTooLarge, InvalidRequest, RequestTimeout

CONTINUE = b"HTTP/1.1 100 "
"""How the answer begins that asks for the body."""
MAX_HEAD_BYTES = 64 << 10
"""Request line and headers; one read of the socket more is looked at before the bound bites."""
HEAD_S = 10.0
"""From connecting, or from a kept connection's first byte, to the end of the head."""
MAX_CONNECTIONS = 10_000
"""Of one worker; whoever comes after them is hung up on."""

_STATUS = {400: b"400 Bad Request", 408: b"408 Request Timeout", 431: b"431 Request Header Fields Too Large"}


class HeadHeld:
    """A transport for one answer, until its first bytes have come: it holds the head back and writes both at once.
    uvicorn writes them apart, and whether a client then finds them together or one after the other tells it how long
    the gateway took in between. Nothing is held for longer than the loop's turn."""

    __slots__ = ("_cycle", "_head", "_loop", "_transport")

    def __init__(
        self, cycle: RequestResponseCycle, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._cycle, self._transport, self._loop = cycle, transport, loop
        self._head = b""

    def write(self, data: bytes) -> None:
        """As a transport's."""
        if data.startswith(CONTINUE):  # it is no answer, and its client waits for it
            self._transport.write(data)
        elif self._head:
            self._write(self._head + data)
        else:
            self._head = data
            self._loop.call_soon(self._let_go)

    def close(self) -> None:
        """As a transport's."""
        self._let_go()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked of a transport."""
        return getattr(self._transport, name)

    def _let_go(self) -> None:
        if self._head:
            self._write(self._head)

    def _write(self, data: bytes) -> None:
        """The rest of the answer goes its own way."""
        self._head = b""
        self._cycle.transport = self._transport
        self._transport.write(data)


class BoundedProtocol(HttpToolsProtocol):
    """See the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._in_head = True
        self._begun = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """asyncio."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()
            return
        self._head_timer = self.loop.call_later(HEAD_S, self._head_takes_too_long)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio."""
        self._cancel_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """asyncio."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._begun and self._head_timer is None:  # a head that is whole at once needs no timer
            self._head_timer = self.loop.call_later(HEAD_S, self._head_takes_too_long)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(HeadTooLarge(f"The request's head is larger than {MAX_HEAD_BYTES} bytes."))

    def on_message_begin(self) -> None:
        """httptools: a head has begun, behind another request in the same packet, perhaps."""
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """httptools: the head is whole."""
        self._in_head, self._head_bytes, self._begun = False, 0, False
        self._cancel_head_timer()
        super().on_headers_complete()
        self.cycle.transport = HeadHeld(self.cycle, self.transport, self.loop)  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        """httptools: the body is whole; a head may come next."""
        self._in_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """uvicorn: what came is not HTTP. Told in the one shape of errors."""
        self._refuse(InvalidRequest("This is not a valid HTTP request."))

    def _head_takes_too_long(self) -> None:
        self._head_timer = None
        if self._begun:
            self._refuse(RequestTimeout("The request's head did not arrive in time. Send it again."))
        else:
            self.transport.close()  # a connection on which nothing was ever asked

    def _refuse(self, error: ApiError) -> None:
        """Told on the bare connection, which is then closed: there is no request yet that an app could answer. While an
        earlier request of the connection is still being answered, it is only closed: words in between would be taken
        for that answer's."""
        self._cancel_head_timer()
        if self.cycle is None or self.cycle.response_complete:
            body = msgspec.json.encode(error.body())
            head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(head % (_STATUS[error.status], len(body)) + body)
        self.transport.close()

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
