"""One pipelined connection to Redis for a whole process.

Commands of all concurrent requests are packed and written once per turn of the event loop; replies come back in order
and meet a queue of waiters. A request that waits longer than the timeout fails; when Redis has been silent for so long,
the connection goes with it. While Redis is away, `call` fails at once (nobody waits for a dead Redis) and
`post` keeps its commands, bounded, and sends them again when Redis is back: they must be idempotent.
"""

import asyncio
import hashlib
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis
import structlog

Argument = str | bytes | int
log = structlog.get_logger()
# hiredis's annotation says "a tuple of one"; it takes any.
_pack = cast(Callable[[tuple[Argument, ...]], bytes], hiredis.pack_command)


class RedisUnavailable(Exception):
    """Redis did not answer in time, or is not there."""


class RedisRefused(Exception):
    """Redis answered with an error."""


class Script:
    """A Lua script by its digest, and by its text for a Redis that does not know it (any more)."""

    __slots__ = ("digest", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Address(NamedTuple):
    """Where Redis is, from its URL."""

    path: str | None
    host: str
    port: int
    tls: bool
    username: str | None
    password: str | None
    database: int

    @classmethod
    def parse(cls, url: str) -> "Address":
        """`redis://[user:password@]host:port/db`, `rediss://` (TLS) or `unix:///path?db=0`. Raises ValueError."""
        parts = urlsplit(url)
        username = unquote(parts.username) if parts.username else None
        password = unquote(parts.password) if parts.password else None
        if parts.scheme == "unix":
            database = int(parse_qs(parts.query).get("db", ["0"])[0])
            return cls(unquote(parts.path), "", 0, False, username, password, database)
        if parts.scheme in ("redis", "rediss") and parts.hostname:
            database = int(parts.path.strip("/") or 0)
            return cls(None, parts.hostname, parts.port or 6379, parts.scheme == "rediss", username, password, database)
        raise ValueError("CATFLAP_REDIS_URL must begin with redis://, rediss:// or unix://.")

    def greeting(self) -> list[tuple[Argument, ...]]:
        """What is said first on a new connection."""
        commands: list[tuple[Argument, ...]] = []
        if self.password is not None:
            commands.append(("AUTH", *([self.username] if self.username else []), self.password))
        if self.database:
            commands.append(("SELECT", self.database))
        return [*commands, ("PING",)]


class _Waiting(NamedTuple):
    """A command whose reply is still to come."""

    future: "asyncio.Future[object] | None"  # None: nobody waits
    command: tuple[Argument, ...]
    script: Script | None
    since: float
    keep: bool = False  # nobody waits, but it is sent again if the connection breaks
    hear: Callable[[object], None] | None = None  # nobody waits, but somebody looks at the reply


class RedisConnection(asyncio.Protocol):
    """See the module. `start` connects and keeps connecting; `close` says good-bye."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 0.1,
        backlog: int = 50_000,
        on_dropped: Callable[[], None] = lambda: None,
    ) -> None:
        self._address = Address.parse(url)
        self._timeout = timeout_s
        self._backlog_limit = backlog
        self._on_dropped = on_dropped
        self._waiting: deque[_Waiting] = deque()
        self._backlog: deque[_Waiting] = deque()  # posted while away
        self._outgoing: list[bytes] = []
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._ready = False
        self._closing = False
        self._flush_due = False
        self._watch: asyncio.TimerHandle | None = None
        self._lost = asyncio.Event()
        self._connector: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._heard = 0.0  # when Redis last said anything
        self.commands_sent = 0

    @property
    def ready(self) -> bool:
        """Connected, greeted and not given up."""
        return self._ready

    # -- what callers use

    async def start(self) -> None:
        """Begin to connect, and wait for the first try only."""
        first = asyncio.Event()
        self._connector = asyncio.create_task(self._keep_connected(first))
        await first.wait()

    async def close(self, timeout_s: float = 2.0) -> None:
        """Wait, at most so long, until every posted command is answered; then hang up."""
        deadline = self._loop.time() + timeout_s
        while self._waiting and self._loop.time() < deadline:
            await asyncio.wait({self._last_reply()}, timeout=deadline - self._loop.time())
        self._closing = True
        if self._connector:
            self._connector.cancel()
            await asyncio.gather(self._connector, return_exceptions=True)
        self._hang_up()

    def call(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> "asyncio.Future[object]":
        """Run a script; the future holds its reply, RedisRefused or RedisUnavailable."""
        future: asyncio.Future[object] = self._loop.create_future()
        if not self._ready:
            future.set_exception(RedisUnavailable("not connected"))
            return future
        self._send(_Waiting(future, ("EVALSHA", script.digest, len(keys), *keys, *args), script, self._loop.time()))
        return future

    def post(
        self,
        script: Script,
        keys: Sequence[Argument],
        args: Sequence[Argument],
        *,
        keep: bool = True,
        hear: Callable[[object], None] | None = None,
    ) -> None:
        """Run an idempotent script without waiting for its reply, which goes to `hear`. `keep`: send it (again) once
        Redis is back; without it the command is worth nothing later, and is let go."""
        command = ("EVALSHA", script.digest, len(keys), *keys, *args)
        waiting = _Waiting(None, command, script, self._loop.time(), keep, hear)
        if self._ready:
            self._send(waiting)
        else:
            self._keep(waiting)

    async def ping(self) -> None:
        """Raise RedisUnavailable or RedisRefused unless Redis answers in time."""
        if not self._ready:
            raise RedisUnavailable("not connected")
        future: asyncio.Future[object] = self._loop.create_future()
        self._send(_Waiting(future, ("PING",), None, self._loop.time()))
        await future

    def _last_reply(self) -> "asyncio.Future[object]":
        """Done when everything that has been sent so far is answered."""
        future: asyncio.Future[object] = self._loop.create_future()
        self._send(_Waiting(future, ("PING",), None, self._loop.time()))
        return future

    # -- sending

    def _send(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        self._outgoing.append(_pack(waiting.command))
        self.commands_sent += 1
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._transport is None or not self._outgoing:
            self._outgoing.clear()
            return
        self._transport.write(b"".join(self._outgoing) if len(self._outgoing) > 1 else self._outgoing[0])
        self._outgoing.clear()
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout, self._check_oldest)

    def _keep(self, waiting: _Waiting) -> None:
        if not waiting.keep:
            return
        if len(self._backlog) >= self._backlog_limit:
            self._backlog.popleft()
            self._on_dropped()
        self._backlog.append(waiting)

    # -- receiving

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the connection stands."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass of it
        self._reader = hiredis.Reader()

    def data_received(self, data: bytes) -> None:
        """asyncio: replies came; hand them out in order."""
        self._heard = self._loop.time()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._answer(self._waiting.popleft(), reply)
        except (hiredis.ProtocolError, IndexError):
            log.error("redis_protocol_error")
            self._hang_up()

    def _answer(self, waiting: _Waiting, reply: object) -> None:
        if isinstance(reply, hiredis.ReplyError):
            if waiting.script is not None and str(reply).startswith("NOSCRIPT"):
                self._send(self._with_text(waiting, waiting.script))
                return
            if waiting.future is None:
                log.error("redis_refused", error=str(reply).split(" ")[0])
            elif not waiting.future.done():
                waiting.future.set_exception(RedisRefused(str(reply)))
        elif waiting.future is None:
            if waiting.hear is not None:
                waiting.hear(reply)
        elif not waiting.future.done():
            waiting.future.set_result(reply)

    @staticmethod
    def _with_text(waiting: _Waiting, script: Script) -> _Waiting:
        """The same command by the script's text (EVAL, so that hosts which forbid SCRIPT LOAD do not matter)."""
        return waiting._replace(command=("EVAL", script.text, *waiting.command[2:]), script=None)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone. Waiters fail; what was posted is kept."""
        self._transport = None
        self._ready = False
        waiting, self._waiting = self._waiting, deque()
        self._outgoing.clear()
        for one in waiting:
            if one.future is None:
                self._keep(one)
            elif not one.future.done():
                one.future.set_exception(RedisUnavailable("connection lost"))
        self._lost.set()

    # -- time

    def _check_oldest(self) -> None:
        """The oldest command has had its time. Replies that have arrived while this process was busy count: look
        again after the loop has read its sockets, before giving up."""
        self._watch = None
        if not self._waiting:
            return
        left = self._waiting[0].since + self._timeout - self._loop.time()
        if left > 0:
            self._watch = self._loop.call_later(left, self._check_oldest)
        else:
            self._watch = self._loop.call_later(0.002, self._fail_the_late)

    def _fail_the_late(self) -> None:
        """Who waits for too long is told so; their replies, when they come, are dropped in their order. Redis that has
        said nothing at all for so long is hung up on; one that works through a backlog is not."""
        self._watch = None
        due = self._loop.time() - self._timeout
        for waiting in self._waiting:
            if waiting.since > due:
                break
            if waiting.future is not None and not waiting.future.done():
                waiting.future.set_exception(RedisUnavailable("timeout"))
        if self._waiting and self._waiting[0].since <= due and self._heard <= due:
            log.warning("redis_timeout", waiting=len(self._waiting))
            self._hang_up()
        elif self._waiting:
            self._watch = self._loop.call_later(self._timeout / 2, self._check_oldest)

    def _hang_up(self) -> None:
        self._ready = False
        if self._transport is not None:
            self._transport.abort()

    # -- connecting

    async def _keep_connected(self, first: asyncio.Event) -> None:
        delay = 0.05
        while not self._closing:
            self._lost.clear()
            try:
                await asyncio.wait_for(self._connect(), max(1.0, self._timeout))
                delay = 0.05
            except (OSError, TimeoutError, RedisRefused, RedisUnavailable) as problem:
                log.warning("redis_unreachable", error=type(problem).__name__)
                self._hang_up()
            first.set()
            if self._ready:
                await self._lost.wait()
                if not self._closing:
                    log.warning("redis_connection_lost", kept=len(self._backlog))
            else:
                await asyncio.sleep(delay)
                delay = min(delay * 2, 1.0)

    async def _connect(self) -> None:
        """Open, greet, and only then let callers in, what was kept before them."""
        address = self._address
        if address.path is not None:
            await self._loop.create_unix_connection(lambda: self, address.path)
        else:
            tls = ssl.create_default_context() if address.tls else None
            await self._loop.create_connection(lambda: self, address.host, address.port, ssl=tls)
        for command in address.greeting():
            future: asyncio.Future[object] = self._loop.create_future()
            self._send(_Waiting(future, command, None, self._loop.time()))
            await future
        self._ready = True
        backlog, self._backlog = self._backlog, deque()
        for waiting in backlog:
            self._send(waiting._replace(since=self._loop.time()))
