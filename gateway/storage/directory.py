"""Queries about organisations, projects, principals, their limits, and keys."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, Select, Table, and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.storage.regard import REGARD
from gateway.storage.tables import key, organisation, principal, principal_limit, project
from gateway.storage.upsert import insert

Row = RowMapping
Rows = Sequence[RowMapping]

PARENTS = (
    principal.c.id.label("principal"),
    principal.c.name.label("principal_name"),
    principal.c.kind.label("principal_kind"),
    principal.c.created_at_ms.label("principal_created_at_ms"),
    project.c.id.label("project"),
    project.c.name.label("project_name"),
    organisation.c.id.label("organisation"),
    organisation.c.name.label("organisation_name"),
)
LIMIT = (  # names of their own, because they stand beside a key's columns
    principal_limit.c.measure.label("limit_measure"),
    principal_limit.c.per.label("limit_per"),
    principal_limit.c.model.label("limit_model"),
    principal_limit.c.limit.label("limit_limit"),
)


async def find_key(connection: AsyncConnection, key_id: str) -> Row | None:
    """A key with its parents, whatever its state; None where there is none."""
    found = await connection.execute(keys_with_parents().where(key.c.id == key_id))
    row: Row | None = found.mappings().one_or_none()
    return row


async def find_key_and_limits(connection: AsyncConnection, key_id: str) -> Rows:
    """The key with its parents and how its principal is regarded, once for each of the principal's own limits, or once
    with those columns null; nothing where there is no such key. One query, so that all are of one moment."""
    query = keys_with_parents(principal_limit).add_columns(*REGARD, *LIMIT).where(key.c.id == key_id)
    return (await connection.execute(query)).mappings().all()


async def find_principal_and_limits(connection: AsyncConnection, *where: ColumnElement[bool]) -> Rows:
    """A principal with its parents, in the same form."""
    source = principal.join(project).join(organisation).outerjoin(principal_limit)
    query = select(*PARENTS, *REGARD, *LIMIT).select_from(source).where(*where)
    ordered = query.order_by(principal_limit.c.measure, principal_limit.c.per, principal_limit.c.model)
    return (await connection.execute(ordered)).mappings().all()


def named(organisation_name: str, project_name: str, name: str) -> tuple[ColumnElement[bool], ...]:
    """The principal of that name in that project of that organisation."""
    return organisation.c.name == organisation_name, project.c.name == project_name, principal.c.name == name


def identified(principal_id: str) -> tuple[ColumnElement[bool], ...]:
    """The principal of that id."""
    return (principal.c.id == principal_id,)


async def list_keys(
    connection: AsyncConnection, wanted: str | None = None, after: Row | None = None, limit: int | None = None
) -> Rows:
    """All keys, or those of the organisation with this name or id; oldest first, `limit` of those `after` this one."""
    query = keys_with_parents().order_by(key.c.created_at_ms, key.c.id).limit(limit)
    if after is not None:
        born, last = after["created_at_ms"], after["id"]
        query = query.where(or_(key.c.created_at_ms > born, and_(key.c.created_at_ms == born, key.c.id > last)))
    if wanted is not None:
        query = query.where(or_(organisation.c.name == wanted, organisation.c.id == wanted))
    rows: Rows = (await connection.execute(query)).mappings().all()
    return rows


async def revoke_key(connection: AsyncConnection, key_id: str, now_ms: int) -> None:
    """Mark it revoked, with all of its secrets. The first time stands."""
    await connection.execute(
        update(key).where(key.c.id == key_id, key.c.revoked_at_ms.is_(None)).values(revoked_at_ms=now_ms)
    )


async def rotate_key(
    connection: AsyncConnection, key_id: str, *, digest: bytes, pepper: str, until_ms: int, now_ms: int
) -> None:
    """Give the key a new secret; the one that it had is good until `until_ms`, the one before that no more."""
    await connection.execute(
        update(key)
        .where(key.c.id == key_id, key.c.revoked_at_ms.is_(None))
        .values(
            digest=digest,
            pepper=pepper,
            old_digest=key.c.digest,
            old_pepper=key.c.pepper,
            old_until_ms=until_ms,
            rotated_at_ms=now_ms,
        )
    )


async def move_digest(connection: AsyncConnection, key_id: str, was: bytes, now: bytes, pepper: str) -> None:
    """Write a secret's digest under another pepper, where the key still has that secret."""
    mine = key.c.id == key_id
    await connection.execute(update(key).where(mine, key.c.digest == was).values(digest=now, pepper=pepper))
    await connection.execute(update(key).where(mine, key.c.old_digest == was).values(old_digest=now, old_pepper=pepper))


async def count_peppers(connection: AsyncConnection, now_ms: int) -> dict[str | None, int]:
    """How many living secrets are kept under each pepper, by its fingerprint; None: not told yet."""
    living = key.c.revoked_at_ms.is_(None), or_(key.c.expires_at_ms.is_(None), key.c.expires_at_ms > now_ms)
    counts: dict[str | None, int] = {}
    for column, more in ((key.c.pepper, ()), (key.c.old_pepper, (key.c.old_until_ms > now_ms,))):
        query = select(column, func.count()).where(*living, *more).group_by(column)
        for fingerprint, count in await connection.execute(query):
            counts[fingerprint] = counts.get(fingerprint, 0) + count
    return counts


async def add_key(connection: AsyncConnection, **values: Any) -> None:
    await connection.execute(key.insert().values(**values))


async def set_limit(connection: AsyncConnection, unique: Mapping[str, Any], limit: int, now_ms: int) -> None:
    """Write one limit of a principal's own; `unique` has the columns of the primary key."""
    values = {"limit": limit, "changed_at_ms": now_ms}
    row = insert(connection.dialect.name, principal_limit).values(**unique, **values)
    await connection.execute(row.on_conflict_do_update(index_elements=list(unique), set_=values))


async def remove_limit(connection: AsyncConnection, unique: Mapping[str, Any]) -> bool:
    """Whether there was such a limit; it is no more."""
    where = (principal_limit.c[name] == value for name, value in unique.items())
    return (await connection.execute(delete(principal_limit).where(*where))).rowcount > 0


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


def keys_with_parents(*beside: Table) -> Select[Any]:
    """Every column of a key and its parents; rows of the tables `beside` may be joined to them."""
    source = key.join(principal).join(project).join(organisation)
    for table in beside:
        source = source.outerjoin(table, table.c.principal_id == principal.c.id)
    columns = [column for column in key.c if column.name != "principal_id"]
    return select(*columns, *PARENTS).select_from(source)
