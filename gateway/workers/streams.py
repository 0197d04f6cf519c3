"""The partitions' event streams in Redis, as their readers see them."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.quota.client import is_cluster
from gateway.quota.keys import confirmed_key, events_key
from gateway.quota.scripts import CONFIRM, REPLACE
from gateway.storage.ledger import Position

START: Position = (0, 0)
FIELD = b"e"
POLL_S = 0.2
NOTE_LIFE_MS = 7 * 24 * 3_600_000  # far above any time that a gateway keeps a settlement


class Entry(msgspec.Struct, frozen=True):
    """One stream entry; `body` is its field `e`, None where it has none."""

    partition: int
    position: Position
    body: bytes | None


class Stream(msgspec.Struct, frozen=True):
    """What is known of one partition's stream: the highest id that it ever gave out, and how many entries it holds."""

    newest: Position = START
    length: int = 0


class Streams:
    """All partitions of one Redis, alone or a cluster. Every method raises redis.exceptions.RedisError, OSError or
    TimeoutError.

    A cluster refuses commands over several slots, even where one node has them all. There each partition is asked
    apart; the client's pipeline groups them by node, so a round costs each node one round trip. A wait cannot be
    pipelined, so it is a poll.
    """

    def __init__(self, redis: Redis, partitions: int) -> None:
        self._redis: Any = redis
        self._apart = is_cluster(redis)
        self._keys = [events_key(partition) for partition in range(partitions)]
        self._partitions = {key.encode(): partition for partition, key in enumerate(self._keys)}

    async def read(self, after: Sequence[Position], most: int, block_ms: int) -> list[Entry]:
        """Up to `most` entries behind the positions, one for each partition; at least one a partition is allowed for.
        Waits up to `block_ms` for the first.

        Each stream first gets an equal share, so that none starves; what is left of `most` then goes to those that
        filled theirs, so that one busy organisation is read at full speed.
        """
        wanted = dict(enumerate(after))
        share = max(1, most // len(self._keys))
        entries: list[Entry] = []
        while wanted and share:
            found = await self._read(wanted, share, None if entries else block_ms)
            entries += [entry for group in found.values() for entry in group]
            wanted = {name: group[-1].position for name, group in found.items() if len(group) == share}
            share = max(0, most - len(entries)) // len(wanted) if wanted else 0
        return entries

    async def confirm(self, committed: Mapping[int, Position]) -> None:
        """Note that the ledger has the entries up to and including these, then drop them."""
        pipe = self._redis.pipeline(transaction=False)
        for partition, (ms, seq) in committed.items():
            names = (confirmed_key(partition), self._keys[partition])
            pipe.eval(CONFIRM.text, len(names), *names, f"{ms}-{seq}", f"{ms}-{seq + 1}", str(NOTE_LIFE_MS))
        await pipe.execute()

    async def forget(self, partitions: Sequence[int]) -> None:
        """Take back what was noted as confirmed: these streams are others than those that it was noted of."""
        pipe = self._redis.pipeline(transaction=False)
        for partition in partitions:
            pipe.delete(confirmed_key(partition))
        await pipe.execute()

    async def replace(self, entry: Entry, body: bytes) -> bool:
        """Put another body in an entry's place, at the stream's end; False where the entry has gone meanwhile."""
        key = self._keys[entry.partition]
        return bool(await self._redis.eval(REPLACE.text, 1, key, "{}-{}".format(*entry.position), body))

    async def look(self) -> list[Stream]:
        """What each partition's stream is like."""
        pipe = self._redis.pipeline(transaction=False)
        for key in self._keys:
            pipe.xinfo_stream(key)
        return [stream_of(answer) for answer in await pipe.execute(raise_on_error=False)]

    async def _read(self, wanted: Mapping[int, Position], count: int, block_ms: int | None) -> dict[int, list[Entry]]:
        if self._apart:
            return await self._poll(wanted, count, block_ms or 0)
        after = {self._keys[partition]: f"{ms}-{seq}" for partition, (ms, seq) in wanted.items()}
        found = await self._redis.xread(after, count=count, block=block_ms)
        return {self._partitions[key]: entries_of(self._partitions[key], entries) for key, entries in found or []}

    async def _poll(self, wanted: Mapping[int, Position], count: int, wait_ms: int) -> dict[int, list[Entry]]:
        end = time.monotonic() + wait_ms / 1000
        while True:
            pipe = self._redis.pipeline(transaction=False)
            for partition, (ms, seq) in wanted.items():
                pipe.xrange(self._keys[partition], min=f"({ms}-{seq}", count=count)
            found = zip(wanted, await pipe.execute(), strict=True)
            groups = {partition: entries_of(partition, entries) for partition, entries in found if entries}
            left = end - time.monotonic()
            if groups or left <= 0:
                return groups
            await asyncio.sleep(min(POLL_S, left))


def entries_of(partition: int, entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[Entry]:
    return [Entry(partition, position_of(name), fields.get(FIELD)) for name, fields in entries]


def stream_of(answer: Any) -> Stream:
    """What XINFO STREAM said."""
    if isinstance(answer, ResponseError) and "no such key" in str(answer):
        return Stream()
    if isinstance(answer, Exception):
        raise answer
    return Stream(position_of(answer["last-generated-id"]), answer["length"])


def position_of(name: bytes) -> Position:
    ms, _, seq = name.partition(b"-")
    return int(ms), int(seq)
