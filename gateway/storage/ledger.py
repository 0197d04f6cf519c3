"""What the ledger writes, in one transaction: events with all that is counted from them, entries that were none, and
how far it has come.

An event is counted when its row is written, in that transaction and by one writer at a time: so once, whoever reads it,
and however often.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import NamedTuple

from sqlalchemy import and_, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.storage.budgets import add_spend
from gateway.storage.tables import erased_principal, ledger_cursor, ledger_reject, pruning, request_event
from gateway.storage.upsert import insert
from gateway.storage.usage import Change, Row, add_usage

Position = tuple[int, int]
"""A stream entry's id, `ms-seq`."""

WRITER_LOCK = 0x6C6564676572  # "ledger": any number will do that nobody else takes
ERASED = {"principal": "prin_erased", "key": "key_erased", "end_user": None, "record": None}
"""What an erased principal's events say instead; one for all, so that nothing links them to each other either. A record
goes whole: it holds the client's address and what it called itself."""


class Booked(NamedTuple):
    """What came of a batch: how many requests are booked anew or otherwise than before; and those that are older than
    what has been pruned, may have been counted already, and so are not booked."""

    changed: int
    late: set[str]


async def one_writer(connection: AsyncConnection) -> None:
    """Whoever changes events, roll-ups or spend takes this first: what it then reads stays so until it commits. SQLite
    has one writer anyway (BEGIN IMMEDIATE)."""
    if connection.dialect.name == "postgresql":
        await connection.execute(text("select pg_advisory_xact_lock(:number)"), {"number": WRITER_LOCK})


async def book(connection: AsyncConnection, events: Sequence[Row]) -> Booked:
    """Write the events that are not there yet and count them; rows are those of request_event, by column.

    One row a request: the first that comes, except that a settlement replaces what the reclaimer wrote for a gateway
    that was cut off and not dead.
    """
    await one_writer(connection)
    rows = await without_erased(connection, events)
    known = await known_rows(connection, [row["request"] for row in rows])
    floor_ms = await pruned_before(connection)
    changes: dict[str, Change] = {}
    late: set[str] = set()
    for row in rows:
        request = row["request"]
        old = known.get(request)
        now = changes[request].new if request in changes else old
        if now is None and row["at_ms"] < floor_ms:
            late.add(request)
        elif now is None or (now["outcome"] == "reclaimed" != row["outcome"]):
            changes[request] = Change(old, row)
    await _write(connection, changes)
    return Booked(len(changes), late)


async def _write(connection: AsyncConnection, changes: Mapping[str, Change]) -> None:
    if not changes:
        return
    statement = insert(connection.dialect.name, request_event)
    others = {column.name: statement.excluded[column.name] for column in request_event.c if not column.primary_key}
    rows = [changes[request].new for request in sorted(changes)]
    await connection.execute(statement.on_conflict_do_update(index_elements=["request"], set_=others), rows)
    await add_usage(connection, list(changes.values()))
    await add_spend(connection, list(changes.values()))


async def known_rows(connection: AsyncConnection, requests: Sequence[str]) -> dict[str, Row]:
    """Those of these requests that are booked, as they are booked."""
    found = await connection.execute(select(request_event).where(request_event.c.request.in_(requests)))
    rows = await without_erased(connection, [dict(row) for row in found.mappings()])
    return {row["request"]: row for row in rows}


async def without_erased(connection: AsyncConnection, rows: Sequence[Row]) -> list[Row]:
    """The rows, those of erased principals under nobody's name."""
    digests = {principal: digest_of(principal) for principal in {str(row["principal"]) for row in rows}}
    query = select(erased_principal.c.digest).where(erased_principal.c.digest.in_(list(digests.values())))
    erased = {bytes(digest) for digest in (await connection.execute(query)).scalars()}
    return [{**row, **ERASED} if digests[row["principal"]] in erased else row for row in rows]


def digest_of(principal: str) -> bytes:
    """What the list of erased principals holds of one: enough to know its late events, not enough to name it."""
    return sha256(principal.encode()).digest()


async def pruned_before(connection: AsyncConnection) -> int:
    """Milliseconds: events from before this instant may have been counted and thrown away."""
    return int((await connection.execute(select(func.max(pruning.c.before_ms)))).scalar() or 0)


async def keep_rejects(connection: AsyncConnection, rejects: Sequence[Row]) -> None:
    """Keep entries that cannot be booked, once each."""
    if rejects:
        rows = sorted(rejects, key=lambda reject: (reject["partition"], reject["entry"]))
        await connection.execute(insert(connection.dialect.name, ledger_reject).on_conflict_do_nothing(), rows)


async def move_cursors(connection: AsyncConnection, cursors: Mapping[int, Position]) -> None:
    """Move the partitions' cursors up; never down."""
    if not cursors:
        return
    cursor = insert(connection.dialect.name, ledger_cursor)
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
