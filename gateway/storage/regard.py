"""Queries about how principals are regarded, and about every change of it."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import RowMapping, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core.caller import Regard
from gateway.core.facts import State
from gateway.storage.tables import organisation, principal, project, regard_change

REGARD = (  # names of their own, because they stand beside the columns of keys and limits
    principal.c.state.label("regard_state"),
    principal.c.score.label("regard_score"),
    principal.c.cluster.label("regard_cluster"),
    principal.c.never_contain.label("regard_never_contain"),
    principal.c.state_until_ms.label("regard_until_ms"),
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Regard).decode


class RegardChange(msgspec.Struct, frozen=True):
    """One change: who made it, when and why."""

    at_ms: int
    author: str
    reason: str
    was: Regard
    became: Regard


class Regarded(msgspec.Struct, frozen=True, kw_only=True):
    """A principal in a list of those who are not regarded as usual. `state`: at the moment of the question."""

    id: str
    name: str
    organisation: str
    organisation_name: str
    project: str
    state: State
    score: float
    cluster: str
    never_contain: bool
    until_ms: int | None
    changed_at_ms: int | None
    author: str | None
    reason: str | None


def regard_of(row: RowMapping) -> Regard:
    """From a row with the columns `REGARD`."""
    return Regard(
        state=row["regard_state"],
        score=row["regard_score"],
        cluster=row["regard_cluster"],
        never_contain=bool(row["regard_never_contain"]),
        until_ms=row["regard_until_ms"],
    )


async def find(connection: AsyncConnection, principal_id: str, *, lock: bool = False) -> tuple[Regard, str] | None:
    """How the principal is regarded, and its organisation's id. `lock`: nobody changes it until the transaction ends
    (on SQLite, one that writes has the only lock there is)."""
    source = principal.join(project)
    query = select(*REGARD, project.c.organisation_id).select_from(source).where(principal.c.id == principal_id)
    if lock:
        query = query.with_for_update(of=principal)
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else (regard_of(row), row["organisation_id"])


async def change(
    connection: AsyncConnection, principal_id: str, was: Regard, became: Regard, *, author: str, reason: str, at_ms: int
) -> None:
    """Write the new regard, and that it was changed."""
    values = {name: getattr(became, name) for name in ("state", "score", "cluster", "never_contain")}
    row = update(principal).where(principal.c.id == principal_id)
    await connection.execute(row.values(**values, state_until_ms=became.until_ms))
    told = {"principal_id": principal_id, "at_ms": at_ms, "author": author, "reason": reason}
    spelt = {"was": _encode(was).decode(), "became": _encode(became).decode()}
    await connection.execute(regard_change.insert().values(**told, **spelt))


async def changes(connection: AsyncConnection, principal_id: str, limit: int) -> tuple[RegardChange, ...]:
    """The principal's last changes, the newest first."""
    where = regard_change.c
    query = select(regard_change).where(where.principal_id == principal_id).order_by(where.number.desc()).limit(limit)
    rows = await connection.execute(query)
    return tuple(RegardChange(row.at_ms, row.author, row.reason, _decode(row.was), _decode(row.became)) for row in rows)


async def list_regarded(
    connection: AsyncConnection, *, state: State | None, cluster: str | None, after: str, limit: int, now_ms: int
) -> Sequence[Regarded]:
    """Those in this state or this cluster; without either, all who are not regarded as usual: in another state than
    `normal`, or never to be contained. By id, `limit` of those after the id `after`."""
    lasting = or_(principal.c.state_until_ms.is_(None), principal.c.state_until_ms > now_ms)
    last = (
        select(func.max(regard_change.c.number))
        .where(regard_change.c.principal_id == principal.c.id)
        .correlate(principal)
        .scalar_subquery()
    )
    source = principal.join(project).join(organisation).outerjoin(regard_change, regard_change.c.number == last)
    query = (
        select(
            principal.c.id,
            principal.c.name,
            organisation.c.id.label("organisation"),
            organisation.c.name.label("organisation_name"),
            project.c.id.label("project"),
            *REGARD,
            regard_change.c.at_ms,
            regard_change.c.author,
            regard_change.c.reason,
        )
        .select_from(source)
        .where(principal.c.id > after)
        .order_by(principal.c.id)
        .limit(limit)
    )
    if cluster is not None:
        query = query.where(principal.c.cluster == cluster)
    if state == "normal":
        query = query.where(or_(principal.c.state == "normal", ~lasting))
    elif state is not None:
        query = query.where(principal.c.state == state, lasting)
    elif cluster is None:
        query = query.where(or_(and_(principal.c.state != "normal", lasting), principal.c.never_contain))
    return [_listed(row, now_ms) for row in (await connection.execute(query)).mappings()]


def _listed(row: RowMapping, now_ms: int) -> Regarded:
    regard = regard_of(row)
    state = regard.state_at(now_ms)
    return Regarded(
        **{name: row[name] for name in ("id", "name", "organisation", "organisation_name", "project")},
        state=state,
        score=regard.score,
        cluster=regard.cluster,
        never_contain=regard.never_contain,
        until_ms=regard.until_ms if state == regard.state else None,
        changed_at_ms=row["at_ms"],
        author=row["author"],
        reason=row["reason"],
    )
