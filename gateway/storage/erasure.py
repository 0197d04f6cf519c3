"""Erasure of a principal's personal data: what names the person goes, what was used stays, under nobody's name.

Goes: the principal's row and all rows that hang on it (its keys with their names and bounds; how it was regarded; its
canaries; evidence), its id and its keys' ids in events, roll-ups, spend and readings of evidence, its end users'
digests, the records of its decisions, and the bodies of rejected entries that name it. Stays: events
and sums without them (bills, capacity), and a digest of the id, so that events which come later (from a stream, a
gateway's memory, an import) are booked under nobody's name too.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Table, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.storage.database import Database
from gateway.storage.ledger import ERASED, digest_of, one_writer
from gateway.storage.tables import (
    METADATA,
    canary,
    erased_principal,
    evidence,
    evidence_reading,
    key,
    ledger_reject,
    principal,
    project,
    regard_change,
    request_event,
    spend,
    usage_day,
    usage_hour,
)
from gateway.storage.upsert import insert
from gateway.storage.usage import move_rows

AT_ONCE = 1000  # events changed in one transaction: the ledger waits for no more than these


class Erasure(msgspec.Struct):
    """What was done. `organisation`: whose principal it was, where the directory still knew it; its gateways are to be
    told, by a new epoch. `told`, `pending`: whether Redis could be reached, and how many events were renamed there."""

    principal: str
    organisation: str | None
    keys: int = 0
    events: int = 0
    rejects: int = 0
    pending: int = 0
    told: bool = False


async def erase_principal(database: Database, principal_id: str, now_ms: int) -> Erasure | None:
    """Erase a principal by its id; None where nobody knows it. Run again, it finishes what was left and changes nothing
    else. The ledger may run meanwhile. Raises sqlalchemy.exc.SQLAlchemyError."""
    async with database.write() as connection:
        await one_writer(connection)
        if not await is_known(connection, principal_id):
            return None
        listed = insert(connection.dialect.name, erased_principal).values(
            digest=digest_of(principal_id), erased_at_ms=now_ms
        )
        await connection.execute(listed.on_conflict_do_nothing())
        done = Erasure(principal_id, await organisation_of(connection, principal_id))
        keys = await move_sums(connection, principal_id)
        done.keys = len(keys)
        done.rejects = await empty_rejects(connection, {principal_id, *keys})
        await forget_containment(connection, principal_id)
        await delete_rows(connection, principal, [principal_id])
    done.events = await rename_events(database, principal_id)
    return done


async def is_known(connection: AsyncConnection, principal_id: str) -> bool:
    """Whether the directory, the books or the list of erased ones know it."""
    for query in (
        select(principal.c.id).where(principal.c.id == principal_id),
        select(erased_principal.c.erased_at_ms).where(erased_principal.c.digest == digest_of(principal_id)),
        select(request_event.c.request).where(request_event.c.principal == principal_id).limit(1),
        select(usage_day.c.start_ms).where(usage_day.c.principal == principal_id).limit(1),
    ):
        if (await connection.execute(query)).first() is not None:
            return True
    return False


async def organisation_of(connection: AsyncConnection, principal_id: str) -> str | None:
    query = select(project.c.organisation_id).select_from(principal.join(project)).where(principal.c.id == principal_id)
    found: str | None = (await connection.execute(query)).scalar_one_or_none()
    return found


async def move_sums(connection: AsyncConnection, principal_id: str) -> set[str]:
    """Roll-ups and spend under nobody's name; the ids of the keys that the principal had."""
    own = select(key.c.id).where(key.c.principal_id == principal_id)
    used = select(usage_day.c.key).where(usage_day.c.principal == principal_id)  # a JWT's caller has no row
    keys = {*(await connection.execute(own)).scalars(), *(await connection.execute(used)).scalars()}
    nobody = {name: ERASED[name] for name in ("principal", "key")}
    for table in (usage_hour, usage_day):
        await move_rows(connection, table, table.c.principal == principal_id, nobody)
    await move_rows(connection, spend, spend.c.subject == principal_id, {"subject": nobody["principal"]})
    await move_rows(connection, spend, spend.c.subject.in_(keys), {"subject": nobody["key"]})
    return keys


async def forget_containment(connection: AsyncConnection, principal_id: str) -> None:
    """What is kept of a principal because it was contained. Who read evidence, when and why stays, without whose."""
    for column in (regard_change.c.principal_id, canary.c.principal, evidence.c.principal):
        await connection.execute(delete(column.table).where(column == principal_id))
    read = update(evidence_reading).where(evidence_reading.c.principal == principal_id)
    await connection.execute(read.values(principal=ERASED["principal"]))


async def empty_rejects(connection: AsyncConnection, ids: set[str]) -> int:
    """Take the bodies from rejected entries that hold one of these ids; how many."""
    rows = (await connection.execute(select(ledger_reject))).all()
    found = [row for row in rows if any(one.encode() in row.body for one in ids)]
    for row in found:
        where = (ledger_reject.c.partition == row.partition, ledger_reject.c.entry == row.entry)
        await connection.execute(update(ledger_reject).where(*where).values(body=b""))
    return len(found)


async def delete_rows(connection: AsyncConnection, table: Table, ids: Sequence[Any]) -> None:
    """Delete rows by id, and first whatever refers to them, in any table, by foreign key."""
    for other in METADATA.tables.values():
        for reference in other.foreign_keys:
            if reference.column.table is table:
                where = reference.parent.in_(ids)
                if "id" in other.c:
                    inner = (await connection.execute(select(other.c.id).where(where))).scalars().all()
                    await delete_rows(connection, other, inner)
                await connection.execute(delete(other).where(where))
    await connection.execute(delete(table).where(table.c.id.in_(ids)))


async def rename_events(database: Database, principal_id: str) -> int:
    """The events themselves, some at a time; how many. The ledger takes those that are not renamed yet for renamed."""
    some = select(request_event.c.request).where(request_event.c.principal == principal_id).limit(AT_ONCE)
    renamed = 0
    while True:
        async with database.write() as connection:
            await one_writer(connection)
            values = update(request_event).where(request_event.c.request.in_(some)).values(**ERASED)
            changed = (await connection.execute(values)).rowcount
        renamed += changed
        if changed < AT_ONCE:
            return renamed
