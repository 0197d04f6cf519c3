"""Rows of evidence, and who has read which. What a body says nobody here can tell: it is encrypted."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.storage.database import Database
from gateway.storage.ledger import digest_of
from gateway.storage.tables import erased_principal, evidence, evidence_reading
from gateway.storage.upsert import insert


class Sealed(NamedTuple):
    """A row of the table."""

    request: str
    organisation: str
    principal: str
    at_ms: int
    expires_at_ms: int
    body: bytes


class Listed(msgspec.Struct, frozen=True):
    """A row without its body; `bytes`: how long that is."""

    request: str
    organisation: str
    principal: str
    at_ms: int
    expires_at_ms: int
    bytes: int


class Reading(msgspec.Struct, frozen=True):
    """That somebody has read one."""

    number: int
    request: str
    principal: str
    reader: str
    reason: str
    at_ms: int


async def keep(connection: AsyncConnection, rows: Sequence[Sealed]) -> None:
    """Write rows; those that are there already stay as they are, those of erased principals are left out."""
    erased = await erased_among(connection, {row.principal for row in rows})
    wanted = [row._asdict() for row in rows if row.principal not in erased]
    if wanted:
        await connection.execute(insert(connection.dialect.name, evidence).on_conflict_do_nothing(), wanted)


async def erased_among(connection: AsyncConnection, principals: set[str]) -> set[str]:
    """Those of the principals whose personal data was erased."""
    digests = {digest_of(principal): principal for principal in principals}
    query = select(erased_principal.c.digest).where(erased_principal.c.digest.in_(digests))
    return {digests[bytes(digest)] for digest in (await connection.execute(query)).scalars()}


async def listed(
    connection: AsyncConnection, *, now_ms: int, since_ms: int, principal: str | None, most: int
) -> list[Listed]:
    """The latest, newest first, without what has expired."""
    columns = [evidence.c[name] for name in Sealed._fields if name != "body"]
    query = (
        select(*columns, func.length(evidence.c.body).label("bytes"))
        .where(evidence.c.expires_at_ms > now_ms, evidence.c.at_ms >= since_ms)
        .order_by(evidence.c.at_ms.desc(), evidence.c.request.desc())
        .limit(most)
    )
    if principal is not None:
        query = query.where(evidence.c.principal == principal)
    return [Listed(**row) for row in (await connection.execute(query)).mappings()]


async def find(connection: AsyncConnection, request: str, now_ms: int) -> Sealed | None:
    """A request's row; None where there is none, or none any more."""
    query = select(evidence).where(evidence.c.request == request, evidence.c.expires_at_ms > now_ms)
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else Sealed(**{**row, "body": bytes(row["body"])})


async def note_reading(connection: AsyncConnection, **columns: Any) -> None:
    """That somebody reads one: the fields of Reading without its number."""
    await connection.execute(evidence_reading.insert().values(**columns))


async def readings(connection: AsyncConnection, *, principal: str | None, most: int) -> list[Reading]:
    """The latest, newest first."""
    query = select(evidence_reading).order_by(evidence_reading.c.number.desc()).limit(most)
    if principal is not None:
        query = query.where(evidence_reading.c.principal == principal)
    return [Reading(**row) for row in (await connection.execute(query)).mappings()]


async def delete_expired(database: Database, now_ms: int, most: int) -> int:
    """Delete up to `most` rows whose time is up, in one transaction; how many. Raises SQLAlchemyError."""
    some = select(evidence.c.request).where(evidence.c.expires_at_ms <= now_ms).limit(most)
    async with database.write() as connection:
        deleted: int = (await connection.execute(delete(evidence).where(evidence.c.request.in_(some)))).rowcount
    return deleted
