"""One pipelined connection to one Redis server, for a whole process.

Commands of all concurrent requests are packed and written once per turn of the event loop; replies come back in order
and meet a queue of waiters. A request that waits longer than the timeout fails, and a breaker opens: after a timeout, a
lost connection or a reply that says "not now", calls fail at once (nobody waits for a dead Redis), and
`post` keeps its commands, bounded, until a PING has been answered. They must be idempotent: some are sent twice.
One that is answered by an error is sent again after a pause, unless it can never be carried out: then it is dropped.
"""

import asyncio
import hashlib
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, cast

import hiredis
import msgspec
import structlog

from gateway.quota.address import Address
from gateway.quota.replies import NOT_NOW, error_code, is_permanent
from gateway.telemetry import metrics

Argument = str | bytes | int
log = structlog.get_logger()
# hiredis's annotation says "a tuple of one"; it takes any.
pack_command = cast(Callable[[tuple[Argument, ...]], bytes], hiredis.pack_command)

LOOK_AGAIN_S = 0.002
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
LONGEST_RETRY_S = 30.0
"""The pause between two tries of what Redis refuses doubles up to this; Redis itself is well meanwhile."""
CONNECT_S = 1.0


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


class Waiting(msgspec.Struct, frozen=True):
    """A command whose reply is still to come."""

    future: "asyncio.Future[object] | None"  # None: nobody waits
    command: tuple[Argument, ...]
    script: Script | None
    since: float
    keep: bool = False  # nobody waits, but it is sent again if the connection breaks
    hear: Callable[[object], None] | None = None  # nobody waits, but somebody looks at the reply
    hops: int = 0  # redirections in a Cluster, so far
    asking: bool = False  # goes to the node that its slot is being moved to
    refused: bool = False  # has been answered by an error, and is tried again

    def fail(self, why: str) -> None:
        """Tell who waits, if anybody does, that Redis is not there."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(RedisUnavailable(why))

    def by_text(self) -> "Waiting":
        """The same by the script's text (EVAL, so that hosts which forbid SCRIPT LOAD do not matter)."""
        if self.script is None:
            return self
        return msgspec.structs.replace(self, command=("EVAL", self.script.text, *self.command[2:]), script=None)


Resolve = Callable[[], Awaitable[Address]]
"""Says where to connect now. Raises RedisUnavailable, RedisRefused, OSError or TimeoutError."""
TakeOver = Callable[["RedisConnection", Waiting, str, str], bool]
"""(connection, command, code, text) of an error reply: whether somebody else now sees to the command."""
Cause = Literal["timeout", "lost", "not now"]


class RedisConnection(asyncio.Protocol):
    """See the module. `start` connects and keeps connecting; `close` says good-bye."""

    def __init__(
        self,
        where: str | Address | Resolve,
        *,
        timeout_s: float = 0.1,
        backlog: int = 50_000,
        on_dropped: Callable[[], None] = lambda: None,
        on_change: Callable[[], None] = lambda: None,
        take_over: TakeOver | None = None,
    ) -> None:
        """`on_dropped`: a kept command was lost; `on_change`: the breaker has opened or closed."""
        self._resolve = _fixed(Address.parse(where) if isinstance(where, str) else where)
        self._timeout = timeout_s
        self._backlog_limit = backlog
        self._on_dropped = on_dropped
        self._on_change = on_change
        self._take_over = take_over
        self._waiting: deque[Waiting] = deque()
        self._backlog: deque[Waiting] = deque()  # posted while away
        self._refused: deque[Waiting] = deque()  # answered by an error, to be tried again
        self._retry: asyncio.TimerHandle | None = None
        self._retry_pause = FIRST_PAUSE_S
        self._outgoing: list[bytes] = []
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._ready = False  # the breaker is closed
        self._since = 0.0  # when the connection was made that stands now
        self._closing = False
        self._flush_due = False
        self._watch: asyncio.TimerHandle | None = None
        self._lost = asyncio.Event()
        self._tried = asyncio.Event()
        self._connector: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._heard = 0.0  # when Redis last said anything
        self.commands_sent = 0

    @property
    def ready(self) -> bool:
        """Connected, greeted and not given up: the breaker is closed."""
        return self._ready

    @property
    def gone(self) -> bool:
        """Tried, and not ready."""
        return self._tried.is_set() and not self._ready

    @property
    def unwritten(self) -> int:
        """Commands that wait for the end of the loop's turn."""
        return len(self._outgoing)

    def connected_since(self, _key: Argument) -> float | None:
        """The loop's time at which the connection that serves this key was made; None while there is none."""
        return self._since if self._transport is not None else None

    # -- what callers use

    async def start(self) -> None:
        """Begin to connect, and wait for the first try only."""
        self.begin()
        await self.tried()

    def begin(self) -> None:
        """Begin to connect."""
        metrics.redis_breakers_open.inc()
        self._connector = asyncio.create_task(self._keep_connected())

    async def tried(self) -> None:
        """The first try to connect has ended, well or not."""
        await self._tried.wait()

    async def close(self, timeout_s: float = 2.0) -> None:
        """Wait, at most so long, until every posted command is answered; then hang up."""
        deadline = self._loop.time() + timeout_s
        while self._waiting and self._loop.time() < deadline:
            await asyncio.wait({self._last_reply()}, timeout=deadline - self._loop.time())
        self._closing = True
        if self._connector:
            self._connector.cancel()
            await asyncio.gather(self._connector, return_exceptions=True)
            metrics.redis_breakers_open.dec(0 if self._ready else 1)
        self._ready = False
        self._abort()

    def call(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> "asyncio.Future[object]":
        """Run a script; the future holds its reply, RedisRefused or RedisUnavailable."""
        future: asyncio.Future[object] = self._loop.create_future()
        if not self._ready:
            future.set_exception(RedisUnavailable("not connected"))
            return future
        self._send(Waiting(future, ("EVALSHA", script.digest, len(keys), *keys, *args), script, self._loop.time()))
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
        Redis is back; without it the command is worth nothing later, and is let go.

        It is written at the end of the loop's turn: whoever must have it written before going on lets that turn end
        (`asyncio.sleep(0)`)."""
        command = ("EVALSHA", script.digest, len(keys), *keys, *args)
        waiting = Waiting(None, command, script, self._loop.time(), keep, hear)
        if self._ready:
            self._send(waiting)
        else:
            self._keep(waiting)

    async def ping(self) -> None:
        """Raise RedisUnavailable or RedisRefused unless Redis answers in time."""
        if not self._ready:
            raise RedisUnavailable("not connected")
        await self._last_reply()

    def _last_reply(self) -> "asyncio.Future[object]":
        """Done when everything that has been sent so far is answered."""
        future: asyncio.Future[object] = self._loop.create_future()
        self._send(Waiting(future, ("PING",), None, self._loop.time()))
        return future

    # -- what a Cluster uses

    def resend(self, waiting: Waiting) -> None:
        """Take a command that was somebody else's. Before the first try to connect has ended it waits for that."""
        if self._ready:
            self._send_kept(waiting)
        elif waiting.future is None or not self._tried.is_set():
            self._keep(waiting)
        else:
            waiting.fail("not connected")

    def take_backlog(self) -> deque[Waiting]:
        """What is kept here, to be sent or kept elsewhere."""
        kept = self._refused + self._backlog
        self._refused, self._backlog = deque(), deque()
        return kept

    def abandon(self) -> deque[Waiting]:
        """Hang up for good; what is kept here, to be kept elsewhere."""
        self._closing = True
        if self._connector:
            self._connector.cancel()
            metrics.redis_breakers_open.dec(0 if self._ready else 1)
        self._ready = False
        self._abort()
        self._let_go()
        return self.take_backlog()

    # -- sending

    def _send(self, waiting: Waiting) -> None:
        self._waiting.append(waiting)
        self._outgoing.append(pack_command(waiting.command))
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

    def _send_kept(self, waiting: Waiting) -> None:
        if waiting.future is not None and waiting.future.done():
            return  # its time is over
        now = self._loop.time()
        if waiting.asking:
            self._send(Waiting(None, ("ASKING",), None, now))
        self._send(msgspec.structs.replace(waiting, since=now))

    def _keep(self, waiting: Waiting) -> None:
        nobody = waiting.future is None or waiting.future.done()
        if waiting.keep or not nobody:
            self._add(self._backlog, waiting)

    def _add(self, kept: deque[Waiting], waiting: Waiting) -> None:
        if len(kept) >= self._backlog_limit:
            kept.popleft()
            self._on_dropped()
        kept.append(waiting)

    def _try_later(self, waiting: Waiting) -> None:
        """Redis refuses a kept command, and may not for ever: try it again, with growing pauses while it goes on so."""
        self._add(self._refused, msgspec.structs.replace(waiting, hops=0, asking=False, refused=True))
        if self._retry is None:
            self._retry = self._loop.call_later(self._retry_pause, self._try_refused)
            self._retry_pause = min(self._retry_pause * 2, LONGEST_RETRY_S)

    def _try_refused(self) -> None:
        self._retry = None
        if self._ready:  # else they go with the backlog
            refused, self._refused = self._refused, deque()
            for waiting in refused:
                self._send_kept(waiting)

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
            self._hang_up("lost")

    def _answer(self, waiting: Waiting, reply: object) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self._hear_error(waiting, str(reply))
            return
        if waiting.refused:
            self._retry_pause = FIRST_PAUSE_S
        if waiting.future is None:
            if waiting.hear is not None:
                waiting.hear(reply)
        elif not waiting.future.done():
            waiting.future.set_result(reply)

    def _hear_error(self, waiting: Waiting, text: str) -> None:
        code = error_code(text)
        if code == "NOSCRIPT" and waiting.script is not None:
            self._send(waiting.by_text())
        elif self._take_over is not None and self._take_over(self, waiting, code, text):
            return
        elif code in NOT_NOW:
            waiting.fail(code)
            self._keep(waiting)
            self._hang_up("not now")  # connecting anew asks who serves, and how it is, with growing pauses
        elif waiting.future is None:
            self._hear_refusal(waiting, code, text)
        elif not waiting.future.done():
            waiting.future.set_exception(RedisRefused(text))

    def _hear_refusal(self, waiting: Waiting, code: str, text: str) -> None:
        """An error in answer to what was posted."""
        lost = waiting.keep and is_permanent(text)
        if lost or not waiting.refused:  # what is tried again and again is said once
            log.error("redis_refused", error=code, kept=waiting.keep and not lost)
        if lost:
            self._on_dropped()
        elif waiting.keep:
            self._try_later(waiting)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is gone."""
        self._transport = None
        self._open("lost")
        self._let_go()
        self._lost.set()

    def _let_go(self) -> None:
        """Waiters fail; what was posted is kept."""
        waiting, self._waiting = self._waiting, deque()
        self._outgoing.clear()
        for one in waiting:
            one.fail("connection lost")
            if one.future is None:
                self._keep(one)

    # -- the breaker

    def _open(self, cause: Cause) -> None:
        """From now on calls fail at once."""
        if self._ready:
            self._ready = False
            metrics.redis_breakers_open.inc()
            metrics.redis_breaker_openings.labels(cause).inc()
            self._on_change()

    def _probed(self, _pong: object) -> None:
        """A probe was answered: let callers in, what was kept before them."""
        if self._ready or self._closing:
            return
        self._ready = True
        metrics.redis_breakers_open.dec()
        for waiting in self.take_backlog():
            self._send_kept(waiting)
        self._on_change()

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
            self._watch = self._loop.call_later(LOOK_AGAIN_S, self._fail_the_late)

    def _fail_the_late(self) -> None:
        """Who waits for too long is told so; their replies, when they come, are dropped in their order. Redis that has
        said nothing at all for so long is hung up on; one that works through a backlog is asked for a PONG."""
        self._watch = None
        now = self._loop.time()
        due, pause, late = now - self._timeout, self._timeout / 2, False
        for waiting in self._waiting:
            if waiting.since > due:
                pause = waiting.since - due
                break
            late = late or (waiting.future is not None and not waiting.future.done())
            waiting.fail("timeout")
        if self._waiting and self._waiting[0].since <= due and self._heard <= due:
            log.warning("redis_timeout", waiting=len(self._waiting))
            self._hang_up("timeout")
        elif self._waiting:
            if late and self._ready:
                self._open("timeout")
                self._send(Waiting(None, ("PING",), None, now, hear=self._probed))
            self._watch = self._loop.call_later(max(pause, LOOK_AGAIN_S), self._check_oldest)

    def _hang_up(self, cause: Cause) -> None:
        self._open(cause)
        self._abort()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # -- connecting

    async def _keep_connected(self) -> None:
        pause = FIRST_PAUSE_S / 2
        while not self._closing:
            self._lost.clear()
            began, lasted = self._loop.time(), False
            try:
                await self._connect()
            except (OSError, TimeoutError, RedisRefused, RedisUnavailable) as problem:
                log.warning("redis_unreachable", error=type(problem).__name__)
                self._hang_up("lost")
                self._tried.set()
            else:
                self._tried.set()
                await self._lost.wait()
                lasted = self._loop.time() - began > 2 * LONGEST_PAUSE_S
                log.warning("redis_connection_lost", kept=len(self._backlog))
            # one that takes connections and serves nobody must not be stormed
            pause = FIRST_PAUSE_S if lasted else min(pause * 2, LONGEST_PAUSE_S)
            await asyncio.sleep(pause)

    async def _connect(self) -> None:
        """Open, greet, and only then let callers in."""
        address = await self._resolve()
        async with asyncio.timeout(max(CONNECT_S, self._timeout)):
            if address.path is not None:
                await self._loop.create_unix_connection(lambda: self, address.path)
            else:
                tls = ssl.create_default_context() if address.tls else None
                await self._loop.create_connection(lambda: self, address.host, address.port, ssl=tls)
            for command in address.greeting():
                future: asyncio.Future[object] = self._loop.create_future()
                self._send(Waiting(future, command, None, self._loop.time()))
                await future
        self._since = self._loop.time()
        self._probed(None)


def _fixed(where: Address | Resolve) -> Resolve:
    if not isinstance(where, Address):
        return where

    async def always() -> Address:
        return where

    return always
