"""Roll-ups of events: hourly and daily sums, kept in the transaction of the events themselves, and read by bills.

An event enters them as a change: what its row was before (nothing, or a reclaimer's estimate) and what it is now. So a
settlement that comes late counts as the difference, in the hour and under the names that it says.
"""

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Literal, NamedTuple

from sqlalchemy import ColumnElement, Table, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.storage.tables import usage_day, usage_hour
from gateway.storage.upsert import insert

Row = Mapping[str, Any]
Span = Literal["hour", "day"]

DIMENSIONS = ("organisation", "project", "principal", "key", "model", "region", "outcome")
SUMS = ("prompt_tokens", "cached_tokens", "completion_tokens", "cost", "kv_cost")
CONTAINED = ("contained_requests", "contained_cost", "beyond_prompt_tokens", "beyond_completion_tokens", "beyond_cost")
"""The defence account: contained requests, what they were charged, and what they used beyond that."""
AMOUNTS = ("requests", *SUMS, *CONTAINED)
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
TABLES: Mapping[Span, tuple[Table, int]] = {"hour": (usage_hour, HOUR_MS), "day": (usage_day, DAY_MS)}


class Change(NamedTuple):
    """What an event's row was, and what it is. Rows are those of request_event, by column."""

    old: Row | None
    new: Row


async def add_usage(connection: AsyncConnection, changes: Sequence[Change]) -> None:
    """Bring both roll-ups up to these changes."""
    hours = rolled_up(changes, HOUR_MS)
    await add_rows(connection, usage_hour, hours)
    await add_rows(connection, usage_day, by_day(hours))


def rolled_up(changes: Iterable[Change], span_ms: int) -> list[dict[str, Any]]:
    """The changes as rows of a roll-up whose spans are so long, to be added to what is there."""
    sums: dict[tuple[Any, ...], list[int]] = {}
    for change in changes:
        for row, sign in ((change.old, -1), (change.new, 1)):
            if row is not None:
                place = (row["at_ms"] - row["at_ms"] % span_ms, *_place(row))
                amounts = sums.setdefault(place, [0] * len(AMOUNTS))
                for i, amount in enumerate(_amounts(row)):
                    if amount:
                        amounts[i] += sign * amount
    names = ("start_ms", *DIMENSIONS, *AMOUNTS)
    return [
        dict(zip(names, (start, *(name or "" for name in place), *amounts), strict=True))
        for (start, *place), amounts in sums.items()
    ]


def by_day(hours: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows of the hourly roll-up as rows of the daily one."""
    days: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in hours:
        start_ms = row["start_ms"] - row["start_ms"] % DAY_MS
        day = days.get(place := (start_ms, *_place(row)))
        if day is None:
            days[place] = {**row, "start_ms": start_ms}
        else:
            day.update({name: day[name] + row[name] for name in AMOUNTS})
    return list(days.values())


_place = itemgetter(*DIMENSIONS)
_sums = itemgetter(*SUMS)
_beyond = itemgetter(*CONTAINED[2:])


def _amounts(row: Row) -> tuple[int, ...]:
    """What one event adds to each of `AMOUNTS`."""
    contained = (1, row["cost"]) if row["contained"] else (0, 0)
    return (1, *_sums(row), *contained, *_beyond(row))


async def add_rows(connection: AsyncConnection, table: Table, rows: Sequence[Row]) -> None:
    """Add amounts to those that are there already under the same primary key: the columns that are not of it."""
    if not rows:
        return
    statement = insert(connection.dialect.name, table)
    keys = [column.name for column in table.primary_key]
    added = {column.name: column + statement.excluded[column.name] for column in table.c if column.name not in keys}
    ordered = sorted(rows, key=lambda row: tuple(row[name] for name in keys))
    await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=added), ordered)


async def move_rows(connection: AsyncConnection, table: Table, where: ColumnElement[bool], names: Row) -> int:
    """Put rows under other `names` (columns of the primary key), adding them up where they meet; how many."""
    found = [{**row, **names} for row in (await connection.execute(select(table).where(where))).mappings()]
    await connection.execute(delete(table).where(where))
    await add_rows(connection, table, found)
    return len(found)


async def usage(
    connection: AsyncConnection,
    *,
    span: Span,
    since_ms: int,
    until_ms: int,
    only: Mapping[str, Sequence[str]],
    per: Sequence[str],
    contained: bool = False,
) -> list[dict[str, Any]]:
    """Sums for each span that begins in [since_ms, until_ms) and each combination of the dimensions in `per`, in that
    order; `only` bounds dimensions to these values, `contained` to sums with contained requests in them. Reads
    roll-ups, never events."""
    table, _ = TABLES[span]
    groups = [table.c.start_ms, *(table.c[name] for name in per)]
    sums = [func.sum(table.c[name]).label(name) for name in AMOUNTS]
    query = (
        select(*groups, *sums)
        .where(table.c.start_ms >= since_ms, table.c.start_ms < until_ms)
        .where(*(table.c[name].in_(values) for name, values in only.items()))
        .group_by(*groups)
        # a span that a settlement took its only request from has none
        .having(func.sum(table.c.contained_requests if contained else table.c.requests) > 0)
        .order_by(*groups)
    )
    rows = (await connection.execute(query)).mappings()
    return [{**row, **{name: int(row[name]) for name in AMOUNTS}} for row in rows]
