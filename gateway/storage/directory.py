"""Queries about organisations, projects, principals and keys."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Select, Table, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.storage.tables import key, organisation, principal, project
from gateway.storage.upsert import insert

Row = Mapping[str, Any]


async def find_key(connection: AsyncConnection, key_id: str) -> Row | None:
    """A key with its parents, whatever its state; None where there is none."""
    found = await connection.execute(keys_with_parents().where(key.c.id == key_id))
    row: Row | None = found.mappings().one_or_none()
    return row


async def list_keys(connection: AsyncConnection, wanted: str | None = None) -> Sequence[Row]:
    """All keys, or those of the organisation with this name or id; oldest first."""
    query = keys_with_parents().order_by(key.c.created_at_ms, key.c.id)
    if wanted is not None:
        query = query.where(or_(organisation.c.name == wanted, organisation.c.id == wanted))
    rows: Sequence[Row] = (await connection.execute(query)).mappings().all()
    return rows


async def revoke_key(connection: AsyncConnection, key_id: str, now_ms: int) -> None:
    """Mark it revoked. The first time stands."""
    await connection.execute(
        update(key).where(key.c.id == key_id, key.c.revoked_at_ms.is_(None)).values(revoked_at_ms=now_ms)
    )


async def add_key(connection: AsyncConnection, **values: Any) -> None:
    await connection.execute(key.insert().values(**values))


async def ensure(
    connection: AsyncConnection, table: Table, unique: Mapping[str, Any], others: Mapping[str, Any]
) -> str:
    """The id of the row that has these `unique` values; it is made, with `others` beside them, where there is none.

    Insert first, read after: two callers at once then get the same row.
    """
    row = insert(connection.dialect.name, table).values(**unique, **others)
    await connection.execute(row.on_conflict_do_nothing(index_elements=list(unique)))
    query = select(table.c.id).where(*(table.c[name] == value for name, value in unique.items()))
    return str((await connection.execute(query)).scalar_one())


def keys_with_parents() -> Select[Any]:
    return select(
        key.c.id,
        key.c.digest,
        key.c.plan,
        key.c.name,
        key.c.created_at_ms,
        key.c.expires_at_ms,
        key.c.revoked_at_ms,
        principal.c.id.label("principal"),
        principal.c.name.label("principal_name"),
        principal.c.kind.label("principal_kind"),
        project.c.id.label("project"),
        project.c.name.label("project_name"),
        organisation.c.id.label("organisation"),
        organisation.c.name.label("organisation_name"),
    ).select_from(key.join(principal).join(project).join(organisation))
