"""Raw events, read out page by page and thrown away when they are old."""

from collections.abc import AsyncIterator, Sequence

from sqlalchemy import and_, delete, or_, select

from gateway.storage.database import Database
from gateway.storage.ledger import one_writer
from gateway.storage.tables import pruning, request_event
from gateway.storage.upsert import insert
from gateway.storage.usage import Row

PAGE = 1000
RECORDS = 5000  # they are short
AT_ONCE = 5000  # rows that one transaction throws away: the ledger waits for no more than these


async def pages(
    database: Database, *, since_ms: int, until_ms: int, organisations: Sequence[str] | None = None, size: int = PAGE
) -> AsyncIterator[Sequence[Row]]:
    """The events that arrived in [since_ms, until_ms), oldest first, each page in a transaction of its own. What is
    booked meanwhile is in it if it is not behind the page. Raises sqlalchemy.exc.SQLAlchemyError."""
    at_ms, request = request_event.c.at_ms, request_event.c.request
    query = select(request_event).where(at_ms < until_ms).order_by(at_ms, request).limit(size)
    if organisations is not None:
        query = query.where(request_event.c.organisation.in_(organisations))
    last_ms, last = since_ms, ""
    while True:
        behind = query.where(at_ms >= last_ms, or_(at_ms > last_ms, and_(at_ms == last_ms, request > last)))
        async with database.read() as connection:
            rows = [dict(row) for row in (await connection.execute(behind)).mappings()]
        if not rows:
            return
        yield rows
        last_ms, last = rows[-1]["at_ms"], rows[-1]["request"]


async def prune(database: Database, before_ms: int, now_ms: int) -> int:
    """Throw away the events that arrived before; how many. Roll-ups and spend stay.

    First it is written down that this was done: from then on the ledger books no event from before, since it can no
    longer tell whether it has. Killed at any point, it can be run again.
    """
    async with database.write() as connection:
        await one_writer(connection)
        mark = insert(connection.dialect.name, pruning).values(before_ms=before_ms, pruned_at_ms=now_ms)
        await connection.execute(mark.on_conflict_do_nothing())
    some = select(request_event.c.request).where(request_event.c.at_ms < before_ms).limit(AT_ONCE)
    pruned = 0
    while True:
        async with database.write() as connection:
            await one_writer(connection)
            gone = await connection.execute(delete(request_event).where(request_event.c.request.in_(some)))
        pruned += gone.rowcount
        if gone.rowcount < AT_ONCE:
            return pruned


async def records(
    database: Database, *, since_ms: int, until_ms: int, size: int = RECORDS
) -> AsyncIterator[Sequence[tuple[str, str | None]]]:
    """(request, its record in JSON or None) of the events that arrived in [since_ms, until_ms), as `pages` gives
    them."""
    at_ms, request = request_event.c.at_ms, request_event.c.request
    query = select(at_ms, request, request_event.c.record).where(at_ms < until_ms).order_by(at_ms, request).limit(size)
    last_ms, last = since_ms, ""
    while True:
        behind = query.where(at_ms >= last_ms, or_(at_ms > last_ms, and_(at_ms == last_ms, request > last)))
        async with database.read() as connection:
            rows = (await connection.execute(behind)).all()
        if not rows:
            return
        yield [(row[1], row[2]) for row in rows]
        last_ms, last = rows[-1][0], rows[-1][1]


async def find(database: Database, request: str) -> Row | None:
    """The event of a request; None: it is not booked (yet, or any more)."""
    async with database.read() as connection:
        found = await connection.execute(select(request_event).where(request_event.c.request == request))
        row = found.mappings().one_or_none()
    return None if row is None else dict(row)
