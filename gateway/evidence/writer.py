"""Writes evidence and canaries to the database, behind the back of the requests.

A request hands over what it has and goes on: nothing here makes it wait or fail. What waits is bounded, in number and
in bytes. While the database is away it is tried again and again; what finds no room meanwhile is dropped and counted.

Nothing is written at once. Sealing and writing take milliseconds of this process, and whichever request came next would
be later for them: who asks twice would see that something was written down in between. So it is gathered for a while of
random length (`GATHER_S`). A gateway that is killed takes that much evidence with it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from random import uniform
from typing import NamedTuple, TypeVar

import structlog
from prometheus_client import Counter, Gauge
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.evidence.content import Evidence, bounded
from gateway.evidence.seal import Seal
from gateway.evidence.uses import Uses
from gateway.storage import canaries, evidence
from gateway.storage.canaries import Given
from gateway.storage.database import Database
from gateway.storage.evidence import Sealed
from gateway.telemetry import clock

__all__ = ["Evidence", "Writer"]

MAX_WAITING = 2000
MAX_BYTES = 64 << 20
BATCH = 50
BATCH_BYTES = 4 << 20
GATHER_S = (0.5, 1.5)
"""Seconds, from and to."""
IDLE_S = 30.0
"""The longest sleep: uses of canaries become due by the hour."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
CLOSE_S = 5.0
END_S = 1.0
DAY_MS = 86_400_000

AWAY = (SQLAlchemyError, OSError, TimeoutError)
Row = TypeVar("Row")

log = structlog.get_logger()
kept_total = Counter("catflap_evidence_kept", "Contained requests whose evidence was written")
dropped_total = Counter("catflap_evidence_dropped", "Contained requests whose evidence was lost", ["cause"])
errors_total = Counter("catflap_evidence_errors", "Writes of evidence or canaries that the database did not take")
waiting = Gauge("catflap_evidence_waiting", "Evidence that waits to be written", multiprocess_mode="livesum")


class Writer:
    """One process's, used from one event loop. `days`: how long evidence is kept; 0: none is, canaries are all the
    same. `timeout_s` bounds one write; `gather_s` as GATHER_S."""

    def __init__(
        self,
        database: Database,
        seal: Seal,
        *,
        days: int,
        timeout_s: float = 5.0,
        gather_s: tuple[float, float] = GATHER_S,
        now_ms: Callable[[], int] = clock.now_ms,
    ) -> None:
        self._database = database
        self._seal = seal
        self._life_ms = days * DAY_MS
        self._timeout_s = timeout_s
        self._gather_s = gather_s
        self._now_ms = now_ms
        self._queue: deque[_Taken] = deque()
        self._bytes = 0
        self._uses = Uses()
        self._sealed: tuple[list[Sealed], int] = ([], 0)
        self._wake = asyncio.Event()
        self._crowded = asyncio.Event()
        self._turn = asyncio.Lock()
        self._away = False

    def keep(self, size: int, make: Callable[[], Evidence]) -> None:
        """Take the evidence of one request, if there is room for about `size` bytes. Never blocks, never raises. It is
        put together (`make`, in a thread) when it is sealed: who shares a core with this process would wait for it."""
        if self._life_ms == 0:
            return
        if len(self._queue) >= MAX_WAITING or self._bytes + size > MAX_BYTES:
            dropped_total.labels("full").inc()
            return
        self._queue.append(_Taken(size, make))
        self._bytes += size
        self._wake.set()
        if len(self._queue) >= MAX_WAITING // 2 or self._bytes >= MAX_BYTES // 2:
            self._crowded.set()

    def gave(self, principal: str, words: tuple[str, ...], at_ms: int) -> None:
        """A principal's phrase has been put into a prompt. Never blocks, never raises."""
        if self._uses.note(principal, words, at_ms):
            self._wake.set()

    async def keep_writing(self) -> None:
        """For ever; one task a process."""
        pause_s = FIRST_PAUSE_S
        while True:
            self._wake.clear()  # whatever comes from here on is met by this round, or wakes the next
            self._crowded.clear()
            try:
                more = await self._write_some(self._uses.due(self._now_ms(), BATCH))
                pause_s = FIRST_PAUSE_S
                self._note_away(None)
            except AWAY as problem:
                end_if_cancelled()
                self._note_away(problem)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            if not more:
                await self._sleep()

    async def close(self) -> None:
        """Write what is left, uses of canaries too, for a few seconds at most; what is left then is dropped."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._write_some(self._uses.unwritten())
                while await self._write_some([]):
                    pass
        except AWAY as problem:
            end_if_cancelled()
            self._note_away(problem)
        left = len(self._queue) + len(self._sealed[0])
        if left:
            dropped_total.labels("closing").inc(left)
            log.error("evidence_dropped", count=left, cause="closing")

    async def _sleep(self) -> None:
        with suppress(TimeoutError):  # not `wait_for`: in Python 3.11 it loses a cancellation that comes with the event
            async with asyncio.timeout(IDLE_S):
                await self._wake.wait()
            async with asyncio.timeout(uniform(*self._gather_s)):  # noqa: S311 - no secret
                await self._crowded.wait()

    async def _write_some(self, uses: Sequence[Given]) -> bool:
        """Write the uses and one batch of evidence; whether more waits. Raises what the database raises: nothing is
        lost then."""
        async with self._turn:
            self._show_waiting()
            if uses:
                await self._write(canaries.note, uses)
                self._uses.written(uses, self._now_ms())
            if not self._sealed[0]:
                await self._seal_batch()
            rows, size = self._sealed
            if rows:
                refused = await self._write(evidence.keep, rows)
                kept_total.inc(len(rows) - refused)
            self._sealed = ([], 0)
            self._bytes -= size
            self._show_waiting()
            return bool(self._queue) or len(uses) == BATCH

    async def _seal_batch(self) -> None:
        """The next batch, encrypted in a thread: compression takes milliseconds. It stays until it is written."""
        batch: list[_Taken] = []
        size = 0
        while self._queue and len(batch) < BATCH and (not batch or size + self._queue[0].size <= BATCH_BYTES):
            batch.append(self._queue.popleft())
            size += batch[-1].size
        try:
            self._sealed = (await asyncio.to_thread(self._seal_all, batch), size) if batch else ([], 0)
        except BaseException:  # cancelled: another turn seals them
            self._queue.extendleft(reversed(batch))
            raise

    def _seal_all(self, batch: "Sequence[_Taken]") -> list[Sealed]:
        return [row for item in batch if (row := self._sealed_row(item)) is not None]

    def _sealed_row(self, taken: "_Taken") -> Sealed | None:
        """None where it cannot be made: that is one request's loss, and nobody else's."""
        try:
            item = bounded(taken.make())
        except Exception as problem:  # noqa: BLE001 - whatever it is
            dropped_total.labels("unmade").inc()
            log.error("evidence_unmade", error=type(problem).__name__)
            return None
        one = item.evidence
        body = self._seal.close(one.request, one.principal, item.content())
        return Sealed(one.request, one.organisation, one.principal, one.at_ms, one.at_ms + self._life_ms, body)

    async def _write(
        self, write: Callable[[AsyncConnection, Sequence[Row]], Awaitable[None]], rows: Sequence[Row]
    ) -> int:
        """Write rows, in one transaction; if the database refuses one for its value, each in its own, so that it holds
        nothing up. How many it refused."""
        try:
            await self._commit(write, rows)
        except (DataError, IntegrityError):
            if len(rows) > 1:
                return sum([await self._write(write, [row]) for row in rows])
            dropped_total.labels("refused").inc()
            log.error("evidence_refused")
            return 1
        return 0

    async def _commit(
        self, write: Callable[[AsyncConnection, Sequence[Row]], Awaitable[None]], rows: Sequence[Row]
    ) -> None:
        """To its end, if that comes within END_S, also when this is cancelled: a SQLite connection that is left within
        a transaction keeps the lock, and whoever writes next waits for it in vain (seen with aiosqlite 0.22)."""
        writing = asyncio.create_task(self._committed(write, rows))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait([writing], timeout=END_S)
            writing.cancel()
            writing.add_done_callback(_hear_error)
            raise

    async def _committed(
        self, write: Callable[[AsyncConnection, Sequence[Row]], Awaitable[None]], rows: Sequence[Row]
    ) -> None:
        async with asyncio.timeout(self._timeout_s), self._database.write() as connection:
            await write(connection, rows)

    def _show_waiting(self) -> None:
        waiting.set(len(self._queue) + len(self._sealed[0]))

    def _note_away(self, problem: BaseException | None) -> None:
        """Count it, and say it once."""
        if problem is not None:
            errors_total.inc()
            if not self._away:
                log.error("evidence_waits", error=type(problem).__name__)
        elif self._away:
            log.info("evidence_goes_on")
        self._away = problem is not None


class _Taken(NamedTuple):
    """Evidence that waits: about so many bytes."""

    size: int
    make: Callable[[], Evidence]


def _hear_error(written: asyncio.Task[None]) -> None:
    """It is written again: its failure is nobody's."""
    if not written.cancelled():
        written.exception()


def end_if_cancelled() -> None:
    """Drivers turn a cancellation into an error of their own when it meets them at the wrong moment (seen with psycopg
    3.3 and aiosqlite 0.22); a loop that takes errors for outages would then never end."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
