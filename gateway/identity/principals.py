"""Principals: found or made by name, shown, and given limits of their own.

Errors: BadName, BadOverride; sqlalchemy.exc.SQLAlchemyError as the database raises it.
"""

import secrets

import msgspec
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core.caller import Override, Regard
from gateway.core.ids import make_id
from gateway.identity.epoch import tell_gateways
from gateway.identity.names import BadName, check_name
from gateway.storage import directory, tables
from gateway.storage.database import Database
from gateway.storage.regard import regard_of
from gateway.telemetry import clock

PERIODS: dict[str, tuple[str | None, ...]] = {
    "requests": ("minute", "day"),
    "tokens": ("minute", "day"),
    "concurrency": (None,),
    "cost": ("month",),
}
"""What can be limited, and per what. Cost is given in cost units."""
MAX_LIMIT = 10**12
MAX_OVERRIDES = 16  # of one principal: one script takes no more limits


class BadOverride(ValueError):
    """A limit that no principal can have; the message says what to write instead."""


class PrincipalRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A principal with its parents, by id and name, how it is regarded, and its own limits."""

    id: str
    name: str
    kind: str
    project: str
    project_name: str
    organisation: str
    organisation_name: str
    created_at_ms: int
    regard: Regard
    limits: tuple[Override, ...]


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """`told`: whether the gateways were; if not, they go on as before until their cache's life is over. `found`:
    whether there was something to remove."""

    record: PrincipalRecord
    told: bool
    found: bool = True


async def show_principal(database: Database, principal_id: str) -> PrincipalRecord | None:
    """The principal, or None where there is none."""
    async with database.read() as connection:
        return await load(connection, principal_id)


async def set_limit(
    database: Database, redis: Redis, partitions: int, principal_id: str, override: Override
) -> Changed | None:
    """Give the principal this limit, in place of one on the same measure, period and model; None where there is no such
    principal. First the database, then the epoch: a gateway that sees the new epoch finds the new limit."""
    check_override(override)
    async with database.write() as connection:
        record = await load(connection, principal_id)
        if record is None:
            return None
        if len(record.limits) >= MAX_OVERRIDES and not any(same(override, limit) for limit in record.limits):
            raise BadOverride(f"a principal may have {MAX_OVERRIDES} limits of its own: remove one first")
        await directory.set_limit(connection, place(principal_id, override), override.limit, clock.now_ms())
        record = await load(connection, principal_id)
    assert record is not None, "a row just read in this transaction"
    return Changed(record=record, told=await tell_gateways(redis, record.organisation, partitions))


async def remove_limit(
    database: Database, redis: Redis, partitions: int, principal_id: str, override: Override
) -> Changed | None:
    """Take such a limit (whatever its number) from the principal; None where there is no such principal."""
    check_override(override)
    async with database.write() as connection:
        found = await directory.remove_limit(connection, place(principal_id, override))
        record = await load(connection, principal_id)
    if record is None:
        return None
    return Changed(record=record, told=await tell_gateways(redis, record.organisation, partitions), found=found)


def check_override(override: Override) -> None:
    """Raises BadOverride."""
    periods = PERIODS.get(override.measure)
    if periods is None:
        raise BadOverride(f"{override.measure[:60]!r} cannot be limited: there are {', '.join(PERIODS)}")
    if override.per not in periods:
        wanted = " or ".join(period or "no period" for period in periods)
        raise BadOverride(
            f"{override.measure} are limited per {wanted}".replace("per no period", "at a time: no period")
        )
    if not 1 <= override.limit <= MAX_LIMIT:
        raise BadOverride(f"the limit must be a number from 1 to {MAX_LIMIT}")
    if override.model is not None:
        try:
            check_name("model's name", override.model)
        except BadName as problem:
            raise BadOverride(str(problem)) from None


def same(one: Override, other: Override) -> bool:
    """Whether both limit the same."""
    return (one.measure, one.per, one.model) == (other.measure, other.per, other.model)


def place(principal_id: str, override: Override) -> dict[str, str]:
    """The primary key of the limit's row."""
    return {
        "principal_id": principal_id,
        "measure": override.measure,
        "per": override.per or "",
        "model": override.model or "",
    }


async def load(connection: AsyncConnection, principal_id: str) -> PrincipalRecord | None:
    rows = await directory.find_principal_and_limits(connection, *directory.identified(principal_id))
    if not rows:
        return None
    row = rows[0]
    return PrincipalRecord(
        id=row["principal"],
        name=row["principal_name"],
        kind=row["principal_kind"],
        project=row["project"],
        project_name=row["project_name"],
        organisation=row["organisation"],
        organisation_name=row["organisation_name"],
        created_at_ms=row["principal_created_at_ms"],
        regard=regard_of(row),
        limits=overrides_of(rows),
    )


def overrides_of(rows: directory.Rows) -> tuple[Override, ...]:
    """A principal's own limits, from its row, which is there once for each; '' in the database stands for None."""
    return tuple(
        Override(row["limit_measure"], row["limit_limit"], row["limit_per"] or None, row["limit_model"] or None)
        for row in rows
        if row["limit_measure"] is not None
    )


async def ensure_principal(connection: AsyncConnection, organisation: str, project: str, name: str, kind: str) -> str:
    """The id of the principal of that name in that project of that organisation."""
    at = clock.now_ms()
    organisation_id = await directory.ensure(
        connection,
        tables.organisation,
        {"name": organisation},
        {"id": make_id("org", secrets.token_bytes(12)), "created_at_ms": at},
    )
    project_id = await directory.ensure(
        connection,
        tables.project,
        {"organisation_id": organisation_id, "name": project},
        {"id": make_id("proj", secrets.token_bytes(12)), "created_at_ms": at},
    )
    return await directory.ensure(
        connection,
        tables.principal,
        {"project_id": project_id, "name": name},
        {"id": make_id("prin", secrets.token_bytes(12)), "kind": kind, "created_at_ms": at},
    )
