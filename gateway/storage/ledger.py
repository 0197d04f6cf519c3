"""What the ledger writes: events, entries that were none, and how far it has come, in one transaction."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.storage.tables import ledger_cursor, ledger_reject, request_event
from gateway.storage.upsert import insert

Position = tuple[int, int]
"""A stream entry's id, `ms-seq`."""


async def record(
    connection: AsyncConnection,
    events: Sequence[Mapping[str, Any]],
    rejects: Sequence[Mapping[str, Any]],
    cursors: Mapping[int, Position],
) -> None:
    """Write them where they are not there yet, and move the partitions' cursors up; never down.

    Rows go in the order of their keys: two ledgers that write the same rows at once then wait for each other in one
    direction only, and cannot deadlock.
    """
    dialect = connection.dialect.name
    if events:
        rows = sorted(events, key=lambda event: str(event["request"]))
        await connection.execute(_settled_over_reclaimed(dialect), rows)
    if rejects:
        rows = sorted(rejects, key=lambda reject: (reject["partition"], reject["entry"]))
        await connection.execute(insert(dialect, ledger_reject).on_conflict_do_nothing(), rows)
    if cursors:
        cursor = insert(dialect, ledger_cursor)
        new = cursor.excluded
        upwards = or_(
            new.last_ms > ledger_cursor.c.last_ms,
            and_(new.last_ms == ledger_cursor.c.last_ms, new.last_seq > ledger_cursor.c.last_seq),
        )
        moves = {"last_ms": new.last_ms, "last_seq": new.last_seq}
        await connection.execute(
            cursor.on_conflict_do_update(index_elements=["partition"], set_=moves, where=upwards),
            [{"partition": name, "last_ms": ms, "last_seq": seq} for name, (ms, seq) in sorted(cursors.items())],
        )


def _settled_over_reclaimed(dialect: str) -> Any:
    """One row a request: the first that comes, except that a settlement replaces what the reclaimer wrote for a gateway
    that was cut off and not dead."""
    statement = insert(dialect, request_event)
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=["request"],
        set_={column.name: new[column.name] for column in request_event.columns if not column.primary_key},
        where=and_(request_event.c.outcome == "reclaimed", new.outcome != "reclaimed"),
    )


async def cursors(connection: AsyncConnection) -> dict[int, Position]:
    """The last confirmed entry of each partition that ever had one."""
    rows = await connection.execute(select(ledger_cursor))
    return {row.partition: (row.last_ms, row.last_seq) for row in rows}


async def rewind(connection: AsyncConnection, partition: int, last: Position) -> None:
    """Put a partition's cursor back to the start: Redis has lost the stream in which it stood at `last`."""
    where = ledger_cursor.c
    await connection.execute(
        update(ledger_cursor)
        .where(where.partition == partition, where.last_ms == last[0], where.last_seq == last[1])
        .values(last_ms=0, last_seq=0)
    )
