"""The partitions' event streams in Redis, as their readers see them."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.quota.keys import events_key
from gateway.storage.ledger import Position

START: Position = (0, 0)
FIELD = b"e"


class Entry(msgspec.Struct, frozen=True):
    """One stream entry; `body` is its field `e`, None where it has none."""

    partition: int
    position: Position
    body: bytes | None


class Streams:
    """All partitions of one Redis. Every method raises redis.exceptions.RedisError, OSError or TimeoutError."""

    def __init__(self, redis: Redis, partitions: int) -> None:
        self._redis = redis
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

    async def trim(self, confirmed: Mapping[int, Position]) -> None:
        """Drop the entries up to and including these."""
        pipe = self._redis.pipeline(transaction=False)
        for partition, (ms, seq) in confirmed.items():
            pipe.xtrim(self._keys[partition], minid=f"{ms}-{seq + 1}", approximate=False)
        await pipe.execute()

    async def newest(self) -> list[Position]:
        """The highest id that each partition's stream ever gave out; START where there is no stream."""
        pipe = self._redis.pipeline(transaction=False)
        for key in self._keys:
            pipe.xinfo_stream(key)
        found = await pipe.execute(raise_on_error=False)
        return [self._last_generated(answer) for answer in found]

    async def _read(self, wanted: Mapping[int, Position], count: int, block_ms: int | None) -> dict[int, list[Entry]]:
        after: dict[Any, Any] = {self._keys[partition]: f"{ms}-{seq}" for partition, (ms, seq) in wanted.items()}
        found: Any = await self._redis.xread(after, count=count, block=block_ms)
        groups: dict[int, list[Entry]] = {}
        for key, entries in found or []:
            partition = self._partitions[key]
            groups[partition] = [Entry(partition, position_of(name), fields.get(FIELD)) for name, fields in entries]
        return groups

    def _last_generated(self, answer: Any) -> Position:
        if isinstance(answer, ResponseError) and "no such key" in str(answer):
            return START
        if isinstance(answer, Exception):
            raise answer
        return position_of(answer["last-generated-id"])


def position_of(name: bytes) -> Position:
    ms, _, seq = name.partition(b"-")
    return int(ms), int(seq)
