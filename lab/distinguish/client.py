"""The attacker's connection: one socket, read as it comes, every byte of heads and bodies kept, with instants.

Blocking sockets: what an event loop adds between the socket and the clock would hide differences.
"""

import socket
import time
from contextlib import suppress

import msgspec

from lab.distinguish.upstream import FIRST_WORD

READ_SIZE = 65536
TIMEOUT_S = 60.0
_TOKEN = FIRST_WORD.strip().encode()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. Instants in seconds since the request's first byte went out."""

    head: bytes
    """Status line and headers as they came, without the empty line; empty where there was no answer."""
    body: bytes
    """Without the chunks' sizes."""
    first: float
    """The first byte of the answer."""
    token: float
    """The first generated word; where there is none, the end."""
    last: float
    reads: tuple[float, ...]
    """When each piece came, as the kernel gave them out."""
    chunks: int
    """Of the transfer encoding."""


class Connection:
    """Kept open between requests where the server keeps it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def ask(self, request: bytes) -> Answer:
        """Send and hear the whole answer. Raises OSError (TimeoutError) where it does not come."""
        fresh = self._socket is None
        try:
            return self._ask(request)
        except (ConnectionError, EOFError):
            self.close()
            if fresh:
                raise
            return self._ask(request)  # the server had closed a connection that it had promised nothing about

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, request: bytes) -> Answer:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        hearing = _Hearing()
        began = time.perf_counter()
        with suppress(ConnectionError):  # it may have answered before it had read everything
            self._socket.sendall(request)
        while not hearing.whole:
            data = self._socket.recv(READ_SIZE)
            at = time.perf_counter() - began
            if not data:
                hearing.end()
                break
            hearing.feed(data, at)
        if hearing.closes:
            self.close()
        return hearing.answer()


class _Hearing:
    """An answer on its way."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._head: bytes | None = None
        self._body = bytearray()
        self._left: int | None = None
        self._chunked = False
        self._chunks = 0
        self._reads: list[float] = []
        self._token = 0.0
        self.whole = False
        self.closes = False

    def feed(self, data: bytes, at: float) -> None:
        """More of it."""
        self._reads.append(at)
        self._data += data
        if self._head is None:
            head, found, rest = bytes(self._data).partition(b"\r\n\r\n")
            if not found:
                return
            self._head, self._data = head, bytearray(rest)
            self._begin(head.lower())
        if self._chunked:
            self._unchunk()
        else:
            self._body += self._data
            self._data.clear()
            self.whole = self._left is not None and len(self._body) >= self._left
        if not self._token and _TOKEN in self._body:
            self._token = at

    def _begin(self, head: bytes) -> None:
        self._chunked = b"\r\ntransfer-encoding: chunked" in head
        self.closes = b"\r\nconnection: close" in head
        length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0].strip()
        self._left = int(length) if length else None

    def _unchunk(self) -> None:
        while not self.whole:
            size_line, found, rest = bytes(self._data).partition(b"\r\n")
            if not found:
                return
            size = int(size_line.partition(b";")[0], 16)
            if len(rest) < size + 2:
                return
            self._body += rest[:size]
            self._data = bytearray(rest[size + 2 :])
            self._chunks += size > 0
            self.whole = size == 0

    def end(self) -> None:
        """The server has closed the connection. Raises EOFError where that is no end of an answer."""
        self.closes = True
        if self._head is None or self._chunked or self._left is not None:
            raise EOFError("The server closed the connection in mid-answer.")

    def answer(self) -> Answer:
        assert self._head is not None
        last = self._reads[-1]
        return Answer(
            head=self._head,
            body=bytes(self._body),
            first=self._reads[0],
            token=self._token or last,
            last=last,
            reads=tuple(self._reads),
            chunks=self._chunks,
        )
