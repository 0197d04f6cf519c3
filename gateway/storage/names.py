"""Names of what the ledger knows by id. It outlives the directory's rows: an id without a row is its own name."""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.storage import tables
from gateway.storage.budgets import AT_ONCE

NAMED = {table.name: table for table in (tables.organisation, tables.project, tables.principal, tables.key)}
"""Dimension -> the table that knows its names; models and regions are their own."""


async def ids_of(connection: AsyncConnection, dimension: str, wanted: str) -> list[str]:
    """The ids that a person may mean by `wanted`: an id, or a name, which several may have."""
    if dimension not in NAMED:
        return [wanted]
    table = NAMED[dimension]
    found = await connection.execute(select(table.c.id).where(or_(table.c.id == wanted, table.c.name == wanted)))
    return sorted({wanted, *found.scalars()})


async def names_of(connection: AsyncConnection, dimension: str, ids: Iterable[str]) -> Mapping[str, str]:
    """Id -> name, for those that have one."""
    wanted: Sequence[str] = sorted(set(ids)) if dimension in NAMED else []
    names: dict[str, str] = {}
    for start in range(0, len(wanted), AT_ONCE):
        table = NAMED[dimension]
        rows = await connection.execute(select(table).where(table.c.id.in_(wanted[start : start + AT_ONCE])))
        names |= {row.id: row.name for row in rows if row.name}
    return names
