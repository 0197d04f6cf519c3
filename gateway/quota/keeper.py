"""Admission and settlement: the pipeline's two conversations with Redis."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple, cast

from gateway.core import event
from gateway.core.caller import Caller
from gateway.core.delta import Usage
from gateway.core.event import RequestEvent
from gateway.core.ids import partition_of
from gateway.core.reservation import Denial, LimitState, Reservation
from gateway.limits.plans import Limit
from gateway.limits.weights import Weights
from gateway.quota import keys
from gateway.quota.connection import Argument, RedisConnection, RedisUnavailable
from gateway.quota.note import Bound, Note, encode_note
from gateway.quota.scripts import ADMIT, EPOCH, RENEW, RESTORE, SETTLE

LEASE_MS = 15_000
"""A reservation that is not renewed for so long is reclaimed; gateways renew every third of it."""
MAX_STREAM = 1_000_000
"""Entries kept of a partition's stream while the ledger is away; past that the oldest go (docs/operations.md)."""
KINDS = {"requests": "w", "tokens": "w", "concurrency": "s", "cost": "b"}
"""Measure -> kind of limit as the scripts know it: window, slots, budget."""
KEYS = {"w": keys.limit_key, "s": keys.slots_key, "b": keys.budget_key}
RECORDED_ONLY = 2
"""What settle.lua answers where the reservation was gone and only the event was recorded."""
HEAD = 4
"""Numbers of admit.lua's reply before those of the limits."""

Spent = Callable[[Sequence[tuple[str, str]], int], Awaitable[Sequence[int]]]
"""(subject, model or ''), month as yyyymm -> what the ledger knows to be spent, in thousandths of a cost unit."""


async def nothing_spent(wanted: Sequence[tuple[str, str]], month: int) -> Sequence[int]:
    """For a house without budgets."""
    return [0] * len(wanted)


class Quota:
    """Limits of all callers, kept in Redis."""

    def __init__(
        self,
        connection: RedisConnection,
        partitions: int,
        *,
        lease_ms: int = LEASE_MS,
        spent: Spent = nothing_spent,
        on_late: Callable[[], None] = lambda: None,
    ) -> None:
        """`spent` is asked for budgets that Redis does not know; it raises RedisUnavailable where nobody knows them.
        `on_late` is called for each settlement whose reservation was gone when it came."""
        self._connection = connection
        self._partitions = partitions
        self._lease_ms = lease_ms
        self._spent = spent
        self._on_late = on_late
        self._in_flight: dict[str, _Running] = {}

    async def admit(
        self,
        caller: Caller,
        limits: tuple[Limit, ...],
        ceiling: Usage,
        unsettled: RequestEvent,
        usage: Usage,
        price: Weights,
    ) -> Reservation | Denial:
        """Reserve one request that uses `ceiling` at most on all limits, or nothing. `unsettled` is the event as it
        reads should this process die, `usage` what the request has used so far: it grows, and renewals report it.
        Raises RedisUnavailable or RedisRefused; then nothing is held that is not reclaimed."""
        partition = partition_of(caller.organisation, self._partitions)
        bound = bind(partition, limits)
        note = encode_note(Note(unsettled, price, bound))
        costs = [limit.units(ceiling) for limit in limits]
        reply = await self._ask(partition, caller, limits, bound, costs, unsettled.request, note)
        states = states_of(limits, reply)
        if reply[1]:
            return Denial(states[reply[1] - 1], reply[0], reply[2], states)
        self._in_flight[unsettled.request] = _Running(partition, asyncio.get_running_loop().time(), usage, bound)
        return Reservation(unsettled.request, caller, ceiling, reply[2], states)

    async def look(self, caller: Caller, limits: tuple[Limit, ...]) -> tuple[int, tuple[LimitState, ...]]:
        """(the organisation's epoch, where the limits stand), with nothing reserved. Raises as `admit` does."""
        partition = partition_of(caller.organisation, self._partitions)
        bound = bind(partition, limits)
        reply = await self._ask(partition, caller, limits, bound, [0] * len(limits), "", b"")
        return reply[2], states_of(limits, reply)

    async def _ask(
        self,
        partition: int,
        caller: Caller,
        limits: tuple[Limit, ...],
        bound: tuple[Bound, ...],
        costs: Sequence[int],
        request: str,
        note: bytes,
    ) -> list[int]:
        """admit.lua's reply, once every budget is known."""
        head = (
            keys.clock_key(partition),
            keys.held_key(partition),
            keys.lease_key(partition),
            keys.epoch_key(partition, caller.organisation),
        )
        args: list[Argument] = [request, self._lease_ms, note]
        for limit, cost in zip(limits, costs, strict=True):
            args += (KINDS[limit.measure], limit.cap, limit.window_ms, limit.bucket_ms, cost)
        names = (*head, *(one.key for one in bound))
        reply = cast(list[int], await self._connection.call(ADMIT, names, args))
        if reply[1] < 0:
            await self._restore(partition, limits, bound, reply[0])
            reply = cast(list[int], await self._connection.call(ADMIT, names, args))
            if reply[1] < 0:
                raise RedisUnavailable("budgets are not known")
        return reply

    async def _restore(self, partition: int, limits: tuple[Limit, ...], bound: tuple[Bound, ...], month: int) -> None:
        """Put the request's budgets into Redis as the ledger has them: a new subject's, or those of a Redis that has
        come back empty."""
        budgets = [(limit, one.key) for limit, one in zip(limits, bound, strict=True) if limit.measure == "cost"]
        spent = await self._spent([(limit.subject, limit.model or "") for limit, _ in budgets], month)
        names = (keys.clock_key(partition), *(key for _, key in budgets))
        await self._connection.call(RESTORE, names, (month, "1", *spent))

    def settle(self, reservation: Reservation, limits: tuple[Limit, ...], finished: RequestEvent) -> None:
        """Charge what `finished` used, give back the rest and record the event. Written at once, not awaited."""
        partition = partition_of(reservation.caller.organisation, self._partitions)
        running = self._in_flight.pop(reservation.request, None)
        bound = running.bound if running is not None else bind(partition, limits)
        self._connection.post(
            SETTLE, *settle_arguments(partition, finished, bound, only_expired=False), hear=self._hear_settled
        )

    def renew(self) -> None:
        """Report progress and renew the leases of all requests that run for longer than a third of a lease."""
        now = asyncio.get_running_loop().time()
        due: dict[int, tuple[list[str], list[Argument]]] = {}
        for request, running in self._in_flight.items():
            if now - running.since > self._lease_ms / 3000:
                slots, reports = due.setdefault(running.partition, ([], []))
                own, usage = running.slots(), running.usage
                slots += own
                reports += (request, usage.prompt_tokens, usage.completion_tokens, len(own))
        for partition, (slots, reports) in due.items():
            head = (keys.clock_key(partition), keys.held_key(partition), keys.lease_key(partition))
            self._connection.post(RENEW, (*head, *slots), (self._lease_ms, *reports), keep=False)

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
        if cast(list[object], reply)[0] == RECORDED_ONLY:
            self._on_late()


class _Running(NamedTuple):
    """An admitted request that has not settled."""

    partition: int
    since: float
    usage: Usage
    bound: tuple[Bound, ...]

    def slots(self) -> list[str]:
        """Keys of the slots that it takes."""
        return [one.key for one in self.bound if one.measure == "concurrency"]


def bind(partition: int, limits: Iterable[Limit]) -> tuple[Bound, ...]:
    """The limits with their keys."""
    return tuple(
        Bound(KEYS[KINDS[limit.measure]](partition, limit.subject, limit.name), limit.measure, limit.weights)
        for limit in limits
    )


def states_of(limits: tuple[Limit, ...], reply: Sequence[int]) -> tuple[LimitState, ...]:
    """Where each limit stands, by admit.lua's reply."""
    return tuple(
        LimitState(
            limit.name,
            limit.measure,
            limit.level,
            limit.cap,
            reply[HEAD + 2 * i],
            reply[HEAD + 1 + 2 * i],
            limit.window_ms,
            limit.model,
        )
        for i, limit in enumerate(limits)
    )


def settle_arguments(
    partition: int, finished: RequestEvent, bound: Sequence[Bound], *, only_expired: bool
) -> tuple[list[Argument], list[Argument]]:
    """KEYS and ARGV of the settle script."""
    head = (keys.clock_key(partition), keys.held_key(partition), keys.lease_key(partition), keys.events_key(partition))
    args = (finished.request, event.encode(finished), MAX_STREAM, "1" if only_expired else "")
    return [*head, *(one.key for one in bound)], [*args, *(one.charge(finished) for one in bound)]
