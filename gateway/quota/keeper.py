"""Admission and settlement: the pipeline's two conversations with Redis."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Literal, cast

import msgspec

from gateway.core import event
from gateway.core.caller import Caller
from gateway.core.delta import Usage
from gateway.core.event import RequestEvent
from gateway.core.ids import partition_of
from gateway.core.reservation import Denial, LimitState, Reservation
from gateway.limits.budget import month_of
from gateway.limits.plans import Limit
from gateway.limits.weights import Weights
from gateway.quota import keys
from gateway.quota.connection import Argument, RedisRefused, RedisUnavailable
from gateway.quota.local import LocalLimits
from gateway.quota.note import Bound, Note, encode_note
from gateway.quota.outbox import Outbox
from gateway.quota.protocol import Connection
from gateway.quota.scripts import ADMIT, EPOCH, RENEW, RESTORE, SETTLE
from gateway.telemetry import clock

LEASE_MS = 15_000
"""A reservation that is not renewed for so long is reclaimed; gateways renew every third of it."""
MAX_STREAM = 1_000_000
"""Entries kept of a partition's stream while the ledger is away; past that the oldest go (docs/operations.md)."""
GIVE_UP_S = 1.0
"""After a timeout: Redis has then read whatever was on its way, or is away for longer."""
KINDS = {"requests": "w", "tokens": "t", "concurrency": "s", "cost": "b"}
"""Measure -> kind of limit as the scripts know it: window, window of which settlements give back, slots, budget."""
KEYS = {"w": keys.limit_key, "t": keys.limit_key, "s": keys.slots_key, "b": keys.budget_key}
RECORDED_ONLY = 2
"""What settle.lua answers where the reservation was gone and only the event was recorded."""
MAX_LOOKUPS = 1000
"""Look-ups of spent budgets that requests share; past that, each request asks for itself."""
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
        connection: Connection,
        partitions: int,
        *,
        lease_ms: int = LEASE_MS,
        spent: Spent = nothing_spent,
        local: LocalLimits | None = None,
        on_late: Callable[[], None] = lambda: None,
    ) -> None:
        """`spent` is asked for budgets that Redis does not know; it raises RedisUnavailable where nobody knows them.
        `local` judges while Redis is away; without it nobody is admitted then. `on_late` is called for each settlement
        whose reservation was gone when it came."""
        self._connection = connection
        self._outbox = Outbox(connection)
        self._local = local
        self._partitions = partitions
        self._lease_ms = lease_ms
        self._spent = spent
        self._on_late = on_late
        self._in_flight: dict[str, _Running] = {}
        self._lookups: dict[_Lookup, asyncio.Task[Sequence[int]]] = {}

    async def admit(
        self,
        caller: Caller,
        limits: tuple[Limit, ...],
        ceiling: Usage,
        unsettled: RequestEvent,
        usage: Usage,
        price: Weights,
        *,
        meanwhile: Callable[[], None] | None = None,
    ) -> Reservation | Denial:
        """Reserve one request that uses `ceiling` at most on all limits, or nothing. `unsettled` is the event as it
        reads should this process die, `usage` what the request has used so far: it grows, and renewals report it.
        `meanwhile` is called when Redis has been asked and before its answer is waited for. Raises RedisUnavailable or
        RedisRefused, and what `meanwhile` raises; then nothing is held that is not reclaimed."""
        partition = partition_of(caller.organisation, self._partitions)
        bound = bind(partition, limits)
        note = encode_note(Note(unsettled, price, bound))
        costs = [limit.units(ceiling) for limit in limits]
        try:
            reply = await self._ask(partition, caller, limits, bound, costs, unsettled.request, note, meanwhile)
        except RedisRefused:
            raise
        except RedisUnavailable:
            if self._local is None:
                # Redis may still read the request from the connection that was given up, before or after what comes on
                # a new one: so not at once.
                asyncio.get_running_loop().call_later(GIVE_UP_S, self._give_up, partition, unsettled, bound)
                raise
            return await self._admit_alone(self._local, caller, limits, ceiling, costs, unsettled)
        except BaseException:  # cancelled, or `meanwhile` has failed
            self._give_up(partition, unsettled, bound)
            raise
        states = states_of(limits, reply[HEAD:])
        if reply[1]:
            return Denial(states[reply[1] - 1], reply[0], reply[2], states)
        self._in_flight[unsettled.request] = _Running(partition, asyncio.get_running_loop().time(), usage, bound)
        return Reservation(unsettled.request, caller, ceiling, reply[2], states)

    def _give_up(self, partition: int, unsettled: RequestEvent, bound: tuple[Bound, ...]) -> None:
        """Nobody waits any more for an admission that is on its way: what it reserved, if it did, is given back now and
        not when its lease ends. Commands of one connection are carried out in their order: this one comes after."""
        finished = msgspec.structs.replace(unsettled, outcome="refused")
        self._connection.post(SETTLE, *settle_arguments(partition, finished, bound, "held"))

    async def look(self, caller: Caller, limits: tuple[Limit, ...]) -> tuple[int, tuple[LimitState, ...]]:
        """(the organisation's epoch, where the limits stand), with nothing reserved. Raises as `admit` does."""
        partition = partition_of(caller.organisation, self._partitions)
        bound = bind(partition, limits)
        reply = await self._ask(partition, caller, limits, bound, [0] * len(limits), "", b"")
        return reply[2], states_of(limits, reply[HEAD:])

    async def _ask(
        self,
        partition: int,
        caller: Caller,
        limits: tuple[Limit, ...],
        bound: tuple[Bound, ...],
        costs: Sequence[int],
        request: str,
        note: bytes,
        meanwhile: Callable[[], None] | None = None,
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
        names = (*head, *[one.key for one in bound])
        asked = self._connection.call(ADMIT, names, args)
        if meanwhile is not None:
            try:
                await asyncio.sleep(0)  # what was asked is written now
                meanwhile()
            except BaseException:
                asked.add_done_callback(_hear_error)
                raise
        reply = cast(list[int], await asked)
        if reply[1] < 0:
            await self._restore(partition, limits, bound, reply[0])
            reply = cast(list[int], await self._connection.call(ADMIT, names, args))
            if reply[1] < 0:
                raise RedisUnavailable("budgets are not known")
        self._outbox.seen(partition, reply[3])
        if self._local is not None:
            for limit, left in zip(limits, reply[HEAD::2], strict=True):
                if limit.measure == "cost":
                    self._local.hear(limit, left, clock.now_ms())
        return reply

    async def _admit_alone(
        self,
        local: LocalLimits,
        caller: Caller,
        limits: tuple[Limit, ...],
        ceiling: Usage,
        costs: Sequence[int],
        unsettled: RequestEvent,
    ) -> Reservation | Denial:
        """Redis is away: this gateway's part of every limit decides."""
        answer = local.admit(unsettled.request, limits, costs, clock.now_ms())
        if answer.refused_by < 0:
            budgets = [limit for limit in limits if limit.measure == "cost"]
            month, _ = month_of(clock.now_ms())
            for limit, spent in zip(budgets, await self._spent_on(budgets, month), strict=True):
                local.restore(limit, spent, clock.now_ms())
            answer = local.admit(unsettled.request, limits, costs, clock.now_ms())
        if answer.refused_by < 0:
            raise RedisUnavailable("budgets are not known")
        states = states_of(limits, list(chain.from_iterable(answer.states)))
        if answer.refused_by:
            return Denial(states[answer.refused_by - 1], answer.wait_ms, None, states)
        return Reservation(unsettled.request, caller, ceiling, None, states)

    async def _restore(self, partition: int, limits: tuple[Limit, ...], bound: tuple[Bound, ...], month: int) -> None:
        """Put the request's budgets into Redis as the ledger has them: a new subject's, or those of a Redis that has
        come back empty."""
        spent = await self._spent_on([limit for limit in limits if limit.measure == "cost"], month)
        names = (keys.clock_key(partition), *(one.key for one in bound if one.measure == "cost"))
        await self._connection.call(RESTORE, names, (month, "1", *spent))

    async def _spent_on(self, budgets: Sequence[Limit], month: int) -> Sequence[int]:
        """As the ledger says. Requests that ask for the same at once share one look-up, its answer or its error;
        nothing is remembered once it has ended, and it goes on when one of those who wait is cancelled."""
        lookup: _Lookup = tuple((limit.subject, limit.model or "") for limit in budgets), month
        task = self._lookups.get(lookup)
        if task is None:
            if len(self._lookups) >= MAX_LOOKUPS:
                return await self._spent(*lookup)
            task = self._lookups[lookup] = asyncio.create_task(self._look_up(lookup))
            task.add_done_callback(_hear_error)
        return await asyncio.shield(task)

    async def _look_up(self, lookup: "_Lookup") -> Sequence[int]:
        try:
            return await self._spent(*lookup)
        finally:
            del self._lookups[lookup]

    def settle(self, reservation: Reservation, limits: tuple[Limit, ...], finished: RequestEvent) -> None:
        """Charge what `finished` used, give back the rest and record the event. Written at once, not awaited."""
        partition = partition_of(reservation.caller.organisation, self._partitions)
        running = self._in_flight.pop(reservation.request, None)
        bound = running.bound if running is not None else bind(partition, limits)
        names, args = settle_arguments(partition, finished, bound)
        self._outbox.post(partition, reservation.request, names, args, self._hear_settled)
        if self._local is not None:
            self._local.settle(reservation.request, [one.charge(finished) for one in bound])

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
        names = (keys.epoch_key(partition, organisation), keys.clock_key(partition))
        return cast(int, await self._connection.call(EPOCH, names, ()))

    async def keep_confirmed(self) -> None:
        """Guard settlements until the ledger has them, for ever; one task a process."""
        await self._outbox.keep_confirmed()

    async def keep_leases(self) -> None:
        """Renew for ever; one task a process."""
        while True:
            await asyncio.sleep(self._lease_ms / 3000)
            self.renew()

    def _hear_settled(self, reply: object) -> None:
        if cast(list[object], reply)[0] == RECORDED_ONLY:
            self._on_late()


_Lookup = tuple[tuple[tuple[str, str], ...], int]
"""(subject, model or '') of some budgets, and the month."""


def _hear_error(asked: "asyncio.Future[Any]") -> None:
    """Its error is told to those who wait; where all were cancelled it is nobody's, and asyncio would complain."""
    if not asked.cancelled():
        asked.exception()


class _Running(msgspec.Struct, frozen=True, gc=False):
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
        [
            Bound(KEYS[KINDS[limit.measure]](partition, limit.subject, limit.name), limit.measure, limit.weights)
            for limit in limits
        ]
    )


def states_of(limits: tuple[Limit, ...], numbers: Sequence[int]) -> tuple[LimitState, ...]:
    """Where each limit stands; `numbers`: for each, units left and milliseconds until it is whole."""
    return tuple(
        [
            LimitState(
                limit.name,
                limit.measure,
                limit.level,
                limit.cap,
                numbers[2 * i],
                numbers[2 * i + 1],
                limit.window_ms,
                limit.model,
            )
            for i, limit in enumerate(limits)
        ]
    )


def settle_arguments(
    partition: int, finished: RequestEvent, bound: Sequence[Bound], only: Literal["expired", "held", ""] = ""
) -> tuple[list[Argument], list[Argument]]:
    """KEYS and ARGV of the settle script, which says what `only` means."""
    head = (keys.clock_key(partition), keys.held_key(partition), keys.lease_key(partition), keys.events_key(partition))
    args = (finished.request, event.encode(finished), MAX_STREAM, only)
    return [*head, *[one.key for one in bound]], [*args, *[one.charge(finished) for one in bound]]
