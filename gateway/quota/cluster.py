"""Redis Cluster: one pipelined connection a master, and the map that says which of them serves a key.

Each master has its own breaker and backlog, so one that is dead fails only its partitions. What a node sends elsewhere
(MOVED, ASK) goes there within the time that its caller has. What cannot be had at the moment (a slot that nobody
serves, a slot on its way) fails for callers, and is kept and tried again where it was posted.
"""

import asyncio
from binascii import crc_hqx
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec
import structlog

from gateway.quota.address import Address, ClusterAddress
from gateway.quota.ask import ask
from gateway.quota.connection import Argument, RedisConnection, RedisRefused, RedisUnavailable, Script, Waiting
from gateway.telemetry import metrics

SLOTS = 16384
MAX_HOPS = 5
ASK_S = 0.5
"""The longest wait for one node's map; nobody waits for this."""
HEALTHY_S, TROUBLED_S, LEAST_S = 30.0, 0.25, 0.05
"""Pauses between two looks at the map: as a rule; while something is amiss; at least."""
log = structlog.get_logger()


class Served(NamedTuple):
    """A range of slots, both ends included, and the master that serves it."""

    first: int
    last: int
    host: str
    port: int


class ClusterConnection:
    """See the module; used as gateway/quota/protocol.py says."""

    def __init__(
        self,
        address: ClusterAddress,
        *,
        timeout_s: float = 0.1,
        backlog: int = 50_000,
        on_dropped: Callable[[], None] = lambda: None,
    ) -> None:
        """`backlog` is that of each master, and of what has no master."""
        self._seeds = deque(address.seeds)
        self._timeout = timeout_s
        self._backlog_limit = backlog
        self._on_dropped = on_dropped
        self._slots: list[RedisConnection | None] = [None] * SLOTS
        self._nodes: dict[tuple[str, int], RedisConnection] = {}
        self._parked: deque[Waiting] = deque()  # posted, and nobody takes it now
        self._troubled = asyncio.Event()
        self._mapper: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def ready(self) -> bool:
        """Whether any master can be asked."""
        return any(node.ready for node in self._nodes.values())

    def connected_since(self, key: Argument) -> float | None:
        """See Connection."""
        node = self._slots[slot_of(key)]
        return None if node is None else node.connected_since(key)

    async def start(self) -> None:
        """Learn the map and try each master once; then go on in the background."""
        learned = asyncio.Event()
        self._mapper = asyncio.create_task(self._keep_mapped(learned))
        await learned.wait()
        await asyncio.gather(*(node.tried() for node in self._nodes.values()))

    async def close(self, timeout_s: float = 2.0) -> None:
        """Wait, at most so long, for the replies that are due; then hang up."""
        if self._mapper is not None:
            self._mapper.cancel()
            await asyncio.gather(self._mapper, return_exceptions=True)
        while self._nodes:  # a late MOVED may bring another one
            nodes, self._nodes = self._nodes, {}
            await asyncio.gather(*(node.close(timeout_s) for node in nodes.values()))

    def call(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> "asyncio.Future[object]":
        """Run a script; the future holds its reply, RedisRefused or RedisUnavailable."""
        node = self._slots[slot_of(keys[0])]
        if node is not None:
            return node.call(script, keys, args)
        future: asyncio.Future[object] = self._loop.create_future()
        future.set_exception(RedisUnavailable("no master serves this slot"))
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
        """Run an idempotent script without waiting for its reply. `keep`: what Redis cannot take now it gets later."""
        node = self._slots[slot_of(keys[0])]
        if node is not None:
            node.post(script, keys, args, keep=keep, hear=hear)
        elif keep:
            command = ("EVALSHA", script.digest, len(keys), *keys, *args)
            self._park(Waiting(None, command, script, self._loop.time(), True, hear))

    async def ping(self) -> None:
        """Raise RedisUnavailable unless some master answers in time."""
        asked = [node.ping() for node in self._nodes.values() if node.ready]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        if not any(answer is None for answer in answers):
            raise RedisUnavailable("no master answers")

    # -- what a node does not do itself

    def _take_over(self, node: RedisConnection, waiting: Waiting, code: str, text: str) -> bool:
        """An error reply: whether it is a matter of the Cluster, and seen to."""
        if code in ("MOVED", "ASK"):
            self._redirect(node, waiting, code, text)
        elif code in ("TRYAGAIN", "CLUSTERDOWN"):
            self._put_off(waiting, code)
        else:
            return False
        return True

    def _redirect(self, node: RedisConnection, waiting: Waiting, code: str, text: str) -> None:
        metrics.redis_redirects.labels(code.lower()).inc()
        _, slot, where = text.split(" ")[:3]
        host, _, port = where.rpartition(":")
        target = self._node(host or self._host_of(node), int(port))
        if code == "MOVED":
            self._slots[int(slot)] = target
            self._troubled.set()  # where one slot went, others may have gone
        if waiting.hops >= MAX_HOPS:
            self._put_off(waiting, "redirected too often")
            return
        if waiting.future is not None and waiting.hops == 0:
            self._loop.call_at(waiting.since + self._timeout, waiting.fail, "timeout")
        # The importing node may not know the script, and ASKING holds for one command: so to it, by text.
        again = waiting.by_text() if code == "ASK" else waiting
        target.resend(msgspec.structs.replace(again, hops=waiting.hops + 1, asking=code == "ASK"))

    def _put_off(self, waiting: Waiting, why: str) -> None:
        waiting.fail(why)
        if waiting.keep:
            self._park(msgspec.structs.replace(waiting, hops=0, asking=False))
        self._troubled.set()

    def _park(self, waiting: Waiting) -> None:
        if len(self._parked) >= self._backlog_limit:
            self._parked.popleft()
            self._on_dropped()
        self._parked.append(waiting)

    def _send_parked(self) -> None:
        parked, self._parked = self._parked, deque()
        for waiting in parked:
            self._send(waiting)

    def _send(self, waiting: Waiting) -> None:
        node = self._slots[slot_of(waiting.command[3])]  # EVALSHA digest number key
        if node is None:
            self._park(waiting)
        else:
            node.resend(waiting)

    # -- the map

    async def _keep_mapped(self, learned: asyncio.Event) -> None:
        while True:
            self._troubled.clear()
            known = await self._learn()
            learned.set()
            self._send_parked()
            await asyncio.sleep(LEAST_S)
            pause = HEALTHY_S if known and not self._parked and self._all_served() else TROUBLED_S
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._troubled.wait()

    def _all_served(self) -> bool:
        return all(node is not None and node.ready for node in set(self._slots))

    async def _learn(self) -> bool:
        """Ask the nodes that answer, else those that we were told of; the first whole answer counts."""
        for address in self._candidates():
            try:
                served = list(read_map(await ask(address, "CLUSTER", "SLOTS", timeout_s=ASK_S), address.host))
            except (OSError, TimeoutError, RedisRefused, RedisUnavailable, ValueError) as problem:
                log.warning("cluster_map_unreadable", port=address.port, error=type(problem).__name__)
                continue
            if served:
                self._apply(served)
                return True
        return False

    def _candidates(self) -> list[Address]:
        """Another one first each time: one that was cut off has an old map."""
        self._seeds.rotate(-1)
        some = self._seeds[0]
        ready = [some.at(*place) for place, node in self._nodes.items() if node.ready]
        turn = len(ready) and int(self._loop.time() / TROUBLED_S) % len(ready)
        return list(dict.fromkeys((*ready[turn:], *ready[:turn], *self._seeds)))

    def _apply(self, served: list[Served]) -> None:
        slots: list[RedisConnection | None] = [None] * SLOTS
        for first, last, host, port in served:
            slots[first : last + 1] = [self._node(host, port)] * (last + 1 - first)
        left = {old for old, new in zip(self._slots, slots, strict=True) if old is not None and old is not new}
        self._slots = slots
        for node in left:
            for waiting in node.take_backlog():
                self._send(waiting)
        serving = set(slots)
        for place, node in tuple(self._nodes.items()):
            if node not in serving and node.gone:
                del self._nodes[place]
                for waiting in node.abandon():
                    self._send(waiting)

    def _node(self, host: str, port: int) -> RedisConnection:
        node = self._nodes.get((host, port))
        if node is None:
            node = self._nodes[host, port] = RedisConnection(
                self._seeds[0].at(host, port),
                timeout_s=self._timeout,
                backlog=self._backlog_limit,
                on_dropped=self._on_dropped,
                on_change=self._troubled.set,
                take_over=self._take_over,
            )
            node.begin()
        return node

    def _host_of(self, node: RedisConnection) -> str:
        return next((host for (host, _), known in self._nodes.items() if known is node), self._seeds[0].host)


def slot_of(key: Argument) -> int:
    """The slot of a key: that of its hash tag, the text between its first brace and the next, if there is any."""
    text = key if isinstance(key, bytes) else str(key).encode()
    start = text.find(b"{")
    if start >= 0:
        end = text.find(b"}", start + 1)
        if end > start + 1:
            text = text[start + 1 : end]
    return crc_hqx(text, 0) % SLOTS


def read_map(reply: object, asked: str) -> Iterator[Served]:
    """CLUSTER SLOTS, as `asked` answered it; a node that does not know its own address has that one. Raises ValueError
    for what is no map."""
    if not isinstance(reply, list):
        raise ValueError("no map")
    for entry in reply:
        match entry:
            case [int(first), int(last), [bytes() | None as host, int(port), *_], *_] if 0 <= first <= last < SLOTS:
                if host != b"?":
                    yield Served(first, last, host.decode() if host else asked, port)
            case _:
                raise ValueError("no map")
