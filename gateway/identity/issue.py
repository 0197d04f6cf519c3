"""Keys are issued, listed, shown and revoked here; command and admin API call the same functions.

Errors: BadName; sqlalchemy.exc.SQLAlchemyError as the database raises it.
"""

import secrets
import time

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core.ids import make_id
from gateway.identity.epoch import bump_epoch
from gateway.identity.keys import SECRET_BYTES, digest, make_token
from gateway.identity.names import check_name
from gateway.storage import directory, tables
from gateway.storage.database import Database


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it may be shown: everything but its digest. Parents by id, with their names beside."""

    id: str
    principal: str
    project: str
    organisation: str
    plan: str
    name: str | None
    principal_name: str
    principal_kind: str
    project_name: str
    organisation_name: str
    created_at_ms: int
    expires_at_ms: int | None
    revoked_at_ms: int | None


class IssuedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A new key. `token` is what its owner sends; nobody can show it again."""

    record: KeyRecord
    token: str

    def __repr__(self) -> str:
        return f"IssuedKey({self.record.id})"


class Revoked(msgspec.Struct, frozen=True, kw_only=True):
    """`told`: whether the gateways were; if not, they honour the key until their cache's life is over."""

    record: KeyRecord
    told: bool


async def issue_key(
    database: Database,
    pepper: bytes,
    *,
    organisation: str,
    project: str,
    principal: str | None,
    plan: str,
    name: str | None = None,
    expires_at_ms: int | None = None,
) -> IssuedKey:
    """A new key; organisation, project and principal are found by name, or made. Without `principal` the key gets a
    service principal of its own, named after the key's id."""
    key_id = make_id("key", secrets.token_bytes(12))
    token = make_token(key_id, secrets.token_bytes(SECRET_BYTES))
    organisation = check_name("organisation's name", organisation)
    project = check_name("project's name", project)
    owner = key_id if principal is None else check_name("principal's name", principal)
    kind = "service" if principal is None else "person"
    values = {
        "id": key_id,
        "digest": digest(pepper, token),
        "plan": check_name("plan's name", plan),
        "name": None if name is None else check_name("key's name", name),
        "created_at_ms": now_ms(),
        "expires_at_ms": expires_at_ms,
    }
    async with database.write() as connection:
        parent = await ensure_principal(connection, organisation, project, owner, kind)
        await directory.add_key(connection, principal_id=parent, **values)
        record = await load(connection, key_id)
    assert record is not None, "a row just written in this transaction"
    return IssuedKey(record=record, token=token)


async def list_keys(database: Database, organisation: str | None = None) -> list[KeyRecord]:
    """All keys, or one organisation's (by name or id), oldest first."""
    async with database.read() as connection:
        return [record_of(row) for row in await directory.list_keys(connection, organisation)]


async def show_key(database: Database, key_id: str) -> KeyRecord | None:
    """The key, or None where there is none."""
    async with database.read() as connection:
        return await load(connection, key_id)


async def revoke_key(database: Database, redis: Redis, partitions: int, key_id: str) -> Revoked | None:
    """Revoke it everywhere; None where there is no such key.

    First the database, then the epoch: a gateway that sees the new epoch finds the key revoked when it looks. Revoking
    again is harmless, and tells the gateways again, which mends an earlier one that could not.
    """
    async with database.write() as connection:
        await directory.revoke_key(connection, key_id, now_ms())
        record = await load(connection, key_id)
    if record is None:
        return None
    try:
        await bump_epoch(redis, record.organisation, partitions)
    except (RedisError, OSError, TimeoutError):
        return Revoked(record=record, told=False)
    return Revoked(record=record, told=True)


async def ensure_principal(connection: AsyncConnection, organisation: str, project: str, name: str, kind: str) -> str:
    """The id of the principal of that name in that project of that organisation."""
    at = now_ms()
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


async def load(connection: AsyncConnection, key_id: str) -> KeyRecord | None:
    row = await directory.find_key(connection, key_id)
    return None if row is None else record_of(row)


def record_of(row: directory.Row) -> KeyRecord:
    return KeyRecord(**{field: row[field] for field in KeyRecord.__struct_fields__})


def now_ms() -> int:
    return time.time_ns() // 1_000_000
