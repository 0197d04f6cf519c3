"""`catflap work ledger`: the partitions' event streams -> SQL.

    read a batch -> one transaction: its rows, what is counted from them, the cursors
        -> raise the budgets of its subjects -> note the batch as confirmed and trim the streams up to there -> again

It may die between any two steps: what is read and not committed is read again, what is committed and not trimmed is
read again and found there, and its budgets are raised again. An entry leaves Redis only after its row is committed. So
a new session begins at the start of each stream, which holds nothing but what is unconfirmed and at most one batch
more; that is also what makes it indifferent to a Redis that comes back empty, or with ids below the cursors. These are
put back then.

Several ledgers at once do no harm: one writes at a time, rows are written and counted once, cursors move up only.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from prometheus_client import Counter, Gauge
from redis.exceptions import RedisClusterException, RedisError
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from gateway.quota.client import connect_redis
from gateway.quota.keeper import MAX_STREAM
from gateway.storage import ledger
from gateway.storage.budgets import Account, spent_by
from gateway.storage.database import Database, connect
from gateway.storage.ledger import Position
from gateway.telemetry import clock
from gateway.workers.backoff import Backoff, pause
from gateway.workers.budgets import Budgets
from gateway.workers.entries import LATE, Batch
from gateway.workers.streams import START, Entry, Streams

BATCH = 2000
LINGER_S = 0.5  # between two rounds that are not full: a transaction for each event costs ten times one for a batch
BLOCK_MS = 1000
CHECK_S = 10.0
REDIS_TIMEOUT_S = 5.0  # above BLOCK_MS
DATABASE_TIMEOUT_S = 30.0

log = structlog.get_logger()
events_total = Counter("catflap_ledger_events", "Events that the ledger has confirmed in SQL")
rejected_total = Counter("catflap_ledger_rejected", "Stream entries that were no RequestEvent, kept in ledger_reject")
records_dropped_total = Counter(
    "catflap_ledger_records_dropped", "Events whose record of the decision was too long and is not in SQL"
)
errors_total = Counter("catflap_ledger_errors", "Attempts that a dependency failed", ["dependency"])
lag_seconds = Gauge("catflap_ledger_lag_seconds", "Age of the oldest event read and not confirmed; 0 when caught up")
backlog = Gauge("catflap_ledger_backlog_entries", "Entries of all partitions that wait for the ledger")
fullest = Gauge("catflap_ledger_fullest_stream_entries", "Entries of the partition that holds most")


class Outage(Exception):
    """A dependency did not do its part; `cause` is the kind of its error, without its text."""

    def __init__(self, dependency: str, cause: str) -> None:
        super().__init__(f"{dependency}: {cause}")
        self.dependency = dependency
        self.cause = cause


async def run_ledger(redis_url: str, database_url: str, partitions: int, stop: asyncio.Event) -> None:
    """Keep the ledger until `stop`; then the batch in hand is finished. Redis and database may come and go."""
    redis = connect_redis(redis_url, timeout_s=REDIS_TIMEOUT_S)
    database = connect(database_url, timeout_s=DATABASE_TIMEOUT_S)
    try:
        await Ledger(Streams(redis, partitions), Budgets(redis), database, partitions).run(stop)
    finally:
        await redis.aclose()
        await database.close()


class Ledger:
    """One reader of all partitions."""

    def __init__(
        self,
        streams: Streams,
        budgets: Budgets,
        database: Database,
        partitions: int,
        *,
        batch: int = BATCH,
        block_ms: int = BLOCK_MS,
        linger_s: float = LINGER_S,
        most_entries: int = MAX_STREAM,
    ) -> None:
        """`most_entries`: where a partition's stream begins to lose its oldest."""
        self._streams = streams
        self._budgets = budgets
        self._most_entries = most_entries
        self._database = database
        self._partitions = partitions
        self._batch = batch
        self._block_ms = block_ms
        self._linger_s = linger_s
        self._after: list[Position] = [START] * partitions
        self._oldest_ms: int | None = None
        self._outage: str | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Sessions, each until something fails, until `stop`."""
        backoff = Backoff()
        while not stop.is_set():
            try:
                await self.session(stop, backoff)
            except Outage as outage:
                end_if_cancelled()
                self._note(outage)
                await backoff.wait(stop)

    async def session(self, stop: asyncio.Event, backoff: Backoff) -> None:
        """From the start of the streams until `stop`. Raises Outage."""
        self._after = [START] * self._partitions
        await self.look()  # before anything is taken off: a full stream has lost its oldest entries
        checked = -CHECK_S
        while not stop.is_set():
            read = await self.round()
            end_if_cancelled()
            if time.monotonic() - checked >= CHECK_S:
                await self.check()
                checked = time.monotonic()
            backoff.reset()
            self._recovered()
            if 0 < read < self._batch:
                await pause(stop, self._linger_s)

    async def round(self) -> int:
        """Read, commit and confirm one batch; how many entries it had. Raises Outage."""
        with dependency("redis"):
            entries = await self._streams.read(self._after, self._batch, self._block_ms)
        self._oldest_ms = min((entry.position[0] for entry in entries), default=None)
        self._show_lag()
        if not entries:
            return 0
        with dependency("database"):
            batch = await self._commit(entries)
            booked = await self._spent(batch)
        self._oldest_ms = None
        committed = batch.cursors()
        with dependency("redis"):
            await self._budgets.raise_to(booked)
            await self._streams.confirm(committed)
        for partition, position in committed.items():
            self._after[partition] = position
        return len(entries)

    async def look(self) -> list[Position]:
        """Show how much waits; the newest entry of each partition. Raises Outage."""
        with dependency("redis"):
            found = await self._streams.look()
        lengths = [stream.length for stream in found]
        backlog.set(sum(lengths))
        fullest.set(max(lengths))
        full = sum(length >= self._most_entries for length in lengths)
        if full:
            log.error("ledger_streams_full", partitions=full, entries=self._most_entries)
        return [stream.newest for stream in found]

    async def check(self) -> None:
        """Where a stream's ids have gone back behind ours, it is another stream: begin at its start. Raises Outage."""
        newest = await self.look()
        with dependency("database"):
            async with asyncio.timeout(DATABASE_TIMEOUT_S), self._database.read() as connection:
                cursors = await ledger.cursors(connection)
        lost = {p: at for p, at in cursors.items() if p < self._partitions and at > newest[p]}
        self._after = [START if at > newest[p] else at for p, at in enumerate(self._after)]
        if not lost:
            return
        log.warning("ledger_streams_lost", partitions=len(lost))
        with dependency("redis"):
            await self._streams.forget(sorted(lost))
        with dependency("database"):
            async with asyncio.timeout(DATABASE_TIMEOUT_S), self._database.write() as connection:
                for partition, at in sorted(lost.items()):
                    await ledger.rewind(connection, partition, at)

    async def _commit(self, entries: Sequence[Entry]) -> Batch:
        try:
            return await self._write(Batch(entries))
        except (DataError, IntegrityError):
            # The database refuses a value that our own check let through. One by one, so that it stops nobody else.
            for entry in entries:
                await self._commit_alone(entry)
            return Batch(entries)

    async def _commit_alone(self, entry: Entry) -> None:
        try:
            await self._write(Batch([entry]))
        except (DataError, IntegrityError):
            await self._write(Batch([entry], reason="the database refused it"))

    async def _write(self, batch: Batch) -> Batch:
        async with asyncio.timeout(DATABASE_TIMEOUT_S), self._database.write() as connection:
            late = (await ledger.book(connection, batch.rows)).late
            rejects = batch.rejects + batch.reject(late, LATE)
            await ledger.keep_rejects(connection, rejects)
            await ledger.move_cursors(connection, batch.cursors())
        events_total.inc(len(batch.rows) - len(late))
        rejected_total.inc(len(rejects))
        if batch.records_dropped:
            records_dropped_total.inc(batch.records_dropped)
            log.warning("ledger_records_dropped", count=batch.records_dropped)
        if rejects:
            log.error(
                "ledger_entries_rejected", count=len(rejects), first=rejects[0]["entry"], reason=rejects[0]["reason"]
            )
        return batch

    async def _spent(self, batch: Batch) -> dict[int, dict[Account, int]]:
        """Partition -> account -> what is booked on it by now."""
        accounts = batch.accounts()
        if not accounts:
            return {}
        async with asyncio.timeout(DATABASE_TIMEOUT_S), self._database.read() as connection:
            return {partition: await spent_by(connection, some) for partition, some in accounts.items()}

    def _show_lag(self) -> None:
        age_ms = 0 if self._oldest_ms is None else max(0, clock.now_ms() - self._oldest_ms)
        lag_seconds.set(age_ms / 1000)

    def _note(self, outage: Outage) -> None:
        errors_total.labels(outage.dependency).inc()
        self._show_lag()
        if self._outage != outage.dependency:
            log.error("ledger_waits", dependency=outage.dependency, error=outage.cause)
        self._outage = outage.dependency

    def _recovered(self) -> None:
        if self._outage is not None:
            log.info("ledger_goes_on", dependency=self._outage)
        self._outage = None


def end_if_cancelled() -> None:
    """Drivers turn a cancellation into an error of their own, or lose it, when it meets them at the wrong moment (seen
    with psycopg 3.3 and aiosqlite 0.22); a loop that takes errors for outages would then never end."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@contextmanager
def dependency(name: str) -> Iterator[None]:
    """Errors of Redis or the database become an Outage of it."""
    try:
        yield
    except (DataError, IntegrityError):
        raise  # about a value, not about the database
    except (RedisError, RedisClusterException, SQLAlchemyError, OSError, TimeoutError) as error:
        raise Outage(name, type(error).__name__) from error
