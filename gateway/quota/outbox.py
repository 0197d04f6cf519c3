"""Settlements that Redis may still lose: they are kept here until the ledger has them, and sent again where Redis has
come back without them.

What Redis has not answered yet is the connection's to keep and to send again. What it has answered is in its stream,
and gone if Redis fails before the ledger has read it: a flush, a failover to a replica that was behind, a crash before
the disk had it. The ledger keeps one row a request, so a settlement that comes twice changes nothing.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import msgspec
import structlog

from gateway.quota.connection import Argument, RedisRefused, RedisUnavailable, Script
from gateway.quota.keys import clock_key, confirmed_key
from gateway.quota.protocol import Connection
from gateway.quota.scripts import CONFIRMED, SETTLE
from gateway.telemetry import metrics

POLL_S = 1.0
CHUNK = 200
"""Settlements that are sent again at once: a request that comes then waits for them, and they take milliseconds."""
log = structlog.get_logger()
Hear = Callable[[object], None]
EntryId = tuple[int, int]


class Retained(msgspec.Struct, frozen=True, gc=False):
    """A settlement, and what Redis said to it."""

    request: str
    entry: EntryId
    born: int
    since: float | None  # the connection that it was heard on
    keys: Sequence[Argument]
    args: Sequence[Argument]


class Outbox:
    """Posts settlements and guards them. One a process; `keep_confirmed` runs beside it."""

    def __init__(
        self,
        connection: Connection,
        *,
        limit: int = 50_000,
        on_dropped: Callable[[], None] = metrics.outbox_dropped.inc,
        script: Script = SETTLE,
    ) -> None:
        """`script` replies `[code, entry id, born]`. `on_dropped`: more than `limit` wait for the ledger, the oldest is
        guarded no longer; it is lost only if Redis loses it too."""
        self._connection = connection
        self._script = script
        self._limit = limit
        self._on_dropped = on_dropped
        self._retained: dict[int, deque[Retained]] = {}
        self._born: dict[int, int] = {}
        self._again: deque[tuple[int, Retained]] = deque()
        self._size = 0

    def __len__(self) -> int:
        """Settlements that the ledger has not confirmed, as far as is known here."""
        return self._size

    def post(
        self,
        partition: int,
        request: str,
        keys: Sequence[Argument],
        args: Sequence[Argument],
        hear: Hear = lambda _reply: None,
    ) -> None:
        """Settle; `hear` gets the first reply. It is carried out at least once, also when Redis is away now."""

        def answered(reply: object) -> None:
            self._retain(partition, request, keys, args, reply)
            hear(reply)

        self._connection.post(self._script, keys, args, hear=answered)

    def seen(self, partition: int, born: int) -> None:
        """A reply said when this partition of Redis was born. Another birth than before: what it held is gone."""
        if self._born.get(partition) == born:
            return
        self._born[partition] = born
        self._recall(partition, lambda one: one.born != born)

    async def keep_confirmed(self) -> None:
        """For ever: forget what the ledger has confirmed, and send again what may be lost."""
        while True:
            await asyncio.sleep(POLL_S)
            await self.look()

    async def look(self) -> None:
        """One round."""
        for partition in tuple(self._retained):
            self._recall_unsure(partition)
        await asyncio.gather(*(self._forget_confirmed(partition) for partition in tuple(self._retained)))
        await self._send_again()
        metrics.outbox_retained.set(self._size)

    def _retain(
        self, partition: int, request: str, keys: Sequence[Argument], args: Sequence[Argument], reply: object
    ) -> None:
        if type(reply) is not list or type(reply[1]) is not bytes:
            return  # nothing was recorded
        entry, born = reply[1:3]
        one = Retained(request, entry_id(entry), born, self._connection.connected_since(keys[0]), keys, args)
        self.seen(partition, born)
        self._retained.setdefault(partition, deque()).append(one)
        self._size += 1
        if self._size > self._limit:
            self._make_room()

    def _make_room(self) -> None:
        """The oldest hundredth of the fullest partition goes: to look for the one oldest each time would take long."""
        fullest = max(self._retained.values(), key=len)
        number = max(1, len(fullest) // 100)
        log.warning("settlements_unguarded", number=number, oldest=fullest[0].request)
        for _ in range(number):
            fullest.popleft()
            self._on_dropped()
        self._size -= number

    def _recall_unsure(self, partition: int) -> None:
        """What was answered on an earlier connection: the server that came back may have less than it had."""
        retained = self._retained[partition]
        since = self._connection.connected_since(retained[0].keys[0]) if retained else None
        if since is not None:
            self._recall(partition, lambda one: one.since != since)

    def _recall(self, partition: int, is_lost: Callable[[Retained], bool]) -> None:
        """Take out what is lost, to be sent again."""
        retained = self._retained.pop(partition, None)
        if not retained:
            return
        kept = deque[Retained]()
        for one in retained:
            if is_lost(one):
                self._again.append((partition, one))
            else:
                kept.append(one)
        if kept:
            self._retained[partition] = kept

    async def _send_again(self) -> None:
        """In chunks, each behind the replies to the one before it, so that requests find their way between."""
        while self._again and self._connection.ready:
            chunk = [self._again.popleft() for _ in range(min(CHUNK, len(self._again)))]
            self._size -= len(chunk)  # they are counted again when they are answered
            for partition, one in chunk:
                metrics.outbox_resent.inc()
                self.post(partition, one.request, one.keys, one.args)
            try:
                await self._confirmed(chunk[-1][0])
            except (RedisUnavailable, RedisRefused):
                return  # what was sent is the connection's to keep, the rest waits here

    async def _forget_confirmed(self, partition: int) -> None:
        try:
            confirmed, born = await self._confirmed(partition)
        except (RedisUnavailable, RedisRefused):
            return
        self.seen(partition, born)
        retained = self._retained.get(partition)
        while retained and retained[0].entry <= confirmed:
            retained.popleft()
            self._size -= 1
        if retained is not None and not retained:
            del self._retained[partition]

    async def _confirmed(self, partition: int) -> tuple[EntryId, int]:
        reply = await self._connection.call(CONFIRMED, (confirmed_key(partition), clock_key(partition)), ())
        entry, born = cast(tuple[bytes, int], reply)
        return entry_id(entry), born


def entry_id(text: bytes) -> EntryId:
    """The two numbers of a stream entry's id; they are ordered, their text is not."""
    milliseconds, _, number = text.partition(b"-")
    return int(milliseconds or 0), int(number or 0)
