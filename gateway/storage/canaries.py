"""Phrases that principals were given, when they were used, and the requests that they were given them in."""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import case, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.storage.evidence import erased_among
from gateway.storage.tables import canary, organisation, principal, project, request_event
from gateway.storage.upsert import insert

AT_ONCE = 5000


class Given(NamedTuple):
    """A principal's phrase, as words, and when it was first and last used."""

    principal: str
    words: tuple[str, ...]
    first_at_ms: int
    last_at_ms: int


class Whose(msgspec.Struct, frozen=True):
    """A principal by name; all of them None where the directory does not know it (any more)."""

    name: str | None = None
    organisation: str | None = None
    project: str | None = None


class Contained(msgspec.Struct, frozen=True):
    """A contained request; `canary_said`: whether its answer held the phrase."""

    request: str
    at_ms: int
    endpoint: str
    model: str
    canary_said: bool


async def note(connection: AsyncConnection, uses: Sequence[Given]) -> None:
    """Write first and last uses; what is there already grows to hold them."""
    erased = await erased_among(connection, {use.principal for use in uses})
    rows = [
        {**use._asdict(), "words": msgspec.json.encode(use.words).decode()}
        for use in sorted(uses)  # in one order, so that two gateways cannot deadlock
        if use.principal not in erased
    ]
    if not rows:
        return
    new = insert(connection.dialect.name, canary)
    first, last = new.excluded.first_at_ms, new.excluded.last_at_ms
    grown = {
        "first_at_ms": case((first < canary.c.first_at_ms, first), else_=canary.c.first_at_ms),
        "last_at_ms": case((last > canary.c.last_at_ms, last), else_=canary.c.last_at_ms),
    }
    await connection.execute(new.on_conflict_do_update(index_elements=["principal", "words"], set_=grown), rows)


async def every(connection: AsyncConnection) -> AsyncIterator[Given]:
    """All of them, by principal."""
    query = select(canary).order_by(canary.c.principal, canary.c.words)
    async for row in await connection.stream(query.execution_options(yield_per=AT_ONCE)):
        yield Given(
            row.principal, msgspec.json.decode(row.words, type=tuple[str, ...]), row.first_at_ms, row.last_at_ms
        )


async def whose(connection: AsyncConnection, principal_id: str) -> Whose:
    """A principal's names."""
    query = (
        select(principal.c.name, organisation.c.name.label("organisation"), project.c.name.label("project"))
        .select_from(principal.join(project).join(organisation))
        .where(principal.c.id == principal_id)
    )
    row = (await connection.execute(query)).mappings().one_or_none()
    return Whose() if row is None else Whose(**row)


async def contained_requests(connection: AsyncConnection, principal_id: str, most: int) -> list[Contained]:
    """Its latest contained requests, newest first."""
    query = (
        select(*(request_event.c[name] for name in Contained.__struct_fields__))
        .where(request_event.c.principal == principal_id, request_event.c.contained)
        .order_by(request_event.c.at_ms.desc())
        .limit(most)
    )
    return [Contained(**row) for row in (await connection.execute(query)).mappings()]
