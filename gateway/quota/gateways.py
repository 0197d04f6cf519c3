"""How many gateways there are: each has a heartbeat in Redis, and remembers what it last heard there.

A gateway here is a process that admits requests: each worker of `catflap serve` is one.
"""

import asyncio
from collections import deque
from typing import NamedTuple, cast

from gateway.quota.connection import RedisRefused, RedisUnavailable
from gateway.quota.protocol import Connection
from gateway.quota.scripts import BEAT
from gateway.telemetry import metrics

KEY = "cf:gateways"
"""Sorted set: gateway -> the millisecond of Redis's clock at which it counts as gone."""
BEAT_S = 5.0
LEASE_MS = 15_000
HEARD = 3
"""Heartbeats whose highest count holds: just after a flush a gateway sees only itself."""


class Part(NamedTuple):
    """One gateway of `of`; `number` counts from 0, and no two that have heard the same have the same."""

    of: int
    number: int

    def share(self, cap: int) -> int:
        """What this gateway may give of `cap`; over all gateways just `cap`."""
        return cap // self.of + (self.number < cap % self.of)


class Gateways:
    """This gateway among the others."""

    def __init__(self, connection: Connection, name: str, *, beat_s: float = BEAT_S, lease_ms: int = LEASE_MS) -> None:
        """`name`: unique to this process."""
        self._connection = connection
        self._name = name
        self._beat_s = beat_s
        self._lease_ms = lease_ms
        self._heard: deque[Part] = deque(maxlen=HEARD)

    @property
    def part(self) -> Part | None:
        """As last heard, where they were most; None as long as Redis has never answered this gateway."""
        return max(reversed(self._heard), key=lambda part: part.of, default=None)

    async def beat(self) -> None:
        """Say that this gateway lives, and hear how many others do. A Redis that is away changes nothing."""
        try:
            alive, before = cast(list[int], await self._connection.call(BEAT, (KEY,), (self._name, self._lease_ms)))
        except (RedisUnavailable, RedisRefused):
            return
        self._heard.append(Part(max(1, alive), before))
        metrics.gateways_live.set(alive)

    async def keep_beating(self) -> None:
        """For ever; one task a process."""
        while True:
            await self.beat()
            await asyncio.sleep(self._beat_s)

    def leave(self) -> None:
        """This gateway stops: the others need not wait for its lease to end."""
        self._connection.post(BEAT, (KEY,), (self._name, 0), keep=False)
