"""Admission and settlement: the pipeline's two conversations with Redis."""

import asyncio
from collections.abc import Callable, Iterable
from itertools import chain
from typing import NamedTuple, cast

import msgspec

from gateway.core import event
from gateway.core.caller import Caller
from gateway.core.delta import Usage
from gateway.core.event import RequestEvent
from gateway.core.ids import partition_of
from gateway.core.reservation import Denial, LimitState, Reservation
from gateway.limits.plans import Limit
from gateway.quota import keys
from gateway.quota.connection import Argument, RedisConnection
from gateway.quota.scripts import ADMIT, EPOCH, RENEW, SETTLE

LEASE_MS = 15_000
"""A reservation that is not renewed for so long is reclaimed; gateways renew every third of it."""
MAX_STREAM = 1_000_000
"""Entries kept of a partition's stream while the ledger is away; past that the oldest go (docs/operations.md)."""


RECORDED_ONLY = 2
"""What settle.lua answers where the reservation was gone and only the event was recorded."""


class Note(msgspec.Struct, frozen=True):
    """What a reservation keeps so that another process can settle it: the event as it would read if the gateway died,
    and the limits, as (key, measure), in the order of admission."""

    event: RequestEvent
    limits: tuple[tuple[str, str], ...]


encode_note = msgspec.json.Encoder().encode
decode_note = msgspec.json.Decoder(Note).decode


class Quota:
    """Limits of all callers, kept in Redis."""

    def __init__(
        self,
        connection: RedisConnection,
        partitions: int,
        *,
        lease_ms: int = LEASE_MS,
        on_late: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_late` is called for each settlement whose reservation was gone when it came."""
        self._connection = connection
        self._partitions = partitions
        self._lease_ms = lease_ms
        self._on_late = on_late
        self._in_flight: dict[str, _Running] = {}

    async def admit(
        self, caller: Caller, limits: tuple[Limit, ...], tokens: int, unsettled: RequestEvent, usage: Usage
    ) -> Reservation | Denial:
        """Reserve one request of `tokens` tokens on all limits, or nothing. `unsettled` is the event as it reads should
        this process die, `usage` what the request has used so far: it grows, and renewals report it. Raises
        RedisUnavailable or RedisRefused; then nothing is held that is not reclaimed."""
        partition = partition_of(caller.organisation, self._partitions)
        windows = [keys.limit_key(partition, limit.subject, limit.name) for limit in limits]
        note = encode_note(Note(unsettled, tuple(zip(windows, (limit.measure for limit in limits), strict=True))))
        args: list[Argument] = [unsettled.request, self._lease_ms, note]
        for limit in limits:
            args += (limit.cap, limit.window_ms, limit.bucket_ms, limit.cost(tokens))
        head = (
            keys.clock_key(partition),
            keys.held_key(partition),
            keys.lease_key(partition),
            keys.epoch_key(partition, caller.organisation),
        )
        reply = cast(list[int], await self._connection.call(ADMIT, (*head, *windows), args))
        wait, refused_by, epoch = reply[:3]
        states = tuple(
            LimitState(limit.name, limit.measure, limit.cap, reply[3 + 2 * i], reply[4 + 2 * i])
            for i, limit in enumerate(limits)
        )
        if refused_by:
            return Denial(states[refused_by - 1], wait, epoch, states)
        self._in_flight[unsettled.request] = _Running(partition, asyncio.get_running_loop().time(), usage)
        return Reservation(unsettled.request, caller, tokens, epoch, states)

    def settle(self, reservation: Reservation, limits: tuple[Limit, ...], finished: RequestEvent) -> None:
        """Charge what `finished` used, give back the rest and record the event. Written at once, not awaited."""
        partition = partition_of(reservation.caller.organisation, self._partitions)
        used = finished.prompt_tokens + finished.completion_tokens
        windows = [keys.limit_key(partition, limit.subject, limit.name) for limit in limits]
        charged = [0 if finished.outcome == "refused" else limit.cost(used) for limit in limits]
        arguments = settle_arguments(partition, finished, windows, charged, only_expired=False)
        self._connection.post(SETTLE, *arguments, hear=self._hear_settled)
        self._in_flight.pop(reservation.request, None)

    def renew(self) -> None:
        """Report progress and renew the leases of all requests that run for longer than a third of a lease."""
        now = asyncio.get_running_loop().time()
        due: dict[int, list[Argument]] = {}
        for request, running in self._in_flight.items():
            if now - running.since > self._lease_ms / 3000:
                due.setdefault(running.partition, []).extend(
                    (request, running.usage.prompt_tokens, running.usage.completion_tokens)
                )
        for partition, reports in due.items():
            head = (keys.clock_key(partition), keys.held_key(partition), keys.lease_key(partition))
            self._connection.post(RENEW, head, (self._lease_ms, *reports), keep=False)

    async def epoch(self, organisation: str) -> int:
        """The organisation's epoch, for requests that reserve nothing. Raises RedisUnavailable or RedisRefused."""
        partition = partition_of(organisation, self._partitions)
        return cast(int, await self._connection.call(EPOCH, (keys.epoch_key(partition, organisation),), ()))

    async def keep_leases(self) -> None:
        """Renew for ever; one task a process."""
        while True:
            await asyncio.sleep(self._lease_ms / 3000)
            self.renew()

    def _hear_settled(self, reply: object) -> None:
        if reply == RECORDED_ONLY:
            self._on_late()


class _Running(NamedTuple):
    """An admitted request that has not settled."""

    partition: int
    since: float
    usage: Usage


def settle_arguments(
    partition: int, finished: RequestEvent, windows: Iterable[str], used: Iterable[int], *, only_expired: bool
) -> tuple[list[Argument], list[Argument]]:
    """KEYS and ARGV of the settle script."""
    head = (keys.clock_key(partition), keys.held_key(partition), keys.lease_key(partition), keys.events_key(partition))
    flag = "1" if only_expired else ""
    return (
        list(chain(head, windows)),
        list(chain((finished.request, event.encode(finished), MAX_STREAM, flag), used)),
    )
