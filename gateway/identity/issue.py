"""Keys are issued, listed and shown here, rotated and revoked; command and admin API call the same functions.

Errors: BadName, BadBound; sqlalchemy.exc.SQLAlchemyError as the database raises it.
"""

import secrets
from pathlib import Path

import msgspec
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core.ids import make_id
from gateway.identity.bounds import Bounds, from_column, to_column
from gateway.identity.epoch import tell_gateways
from gateway.identity.keys import ID_LENGTH, ID_PREFIX, SECRET_BYTES, digest, make_token
from gateway.identity.names import check_name
from gateway.identity.pepper import fingerprint
from gateway.identity.principals import ensure_principal
from gateway.storage import directory
from gateway.storage.database import Database
from gateway.telemetry import clock

LISTED = ("scopes", "models", "addresses", "tags")
NO_BOUNDS = Bounds()


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it may be shown: everything but its digests. Parents by id, with their names beside. `old_until_ms`:
    until when the secret before the last rotation is good."""

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
    rotated_at_ms: int | None = None
    old_until_ms: int | None = None
    scopes: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    addresses: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None


class IssuedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key with a new secret. `token` is what its owner sends; nobody can show it again."""

    record: KeyRecord
    token: str

    def __repr__(self) -> str:
        return f"IssuedKey({self.record.id})"


class Rotated(IssuedKey, frozen=True, kw_only=True):
    """`ended_early`: an overlap was still on, and its older secret ended with this rotation. `told`: as in Revoked."""

    ended_early: bool
    told: bool


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
    bounds: Bounds = NO_BOUNDS,
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
        "pepper": fingerprint(pepper),
        "plan": check_name("plan's name", plan),
        "name": None if name is None else check_name("key's name", name),
        "created_at_ms": clock.now_ms(),
        "expires_at_ms": expires_at_ms,
        **{field: to_column(getattr(bounds, field)) for field in LISTED},
    }
    async with database.write() as connection:
        parent = await ensure_principal(connection, organisation, project, owner, kind)
        await directory.add_key(connection, principal_id=parent, **values)
        record = await load(connection, key_id)
    assert record is not None, "a row just written in this transaction"
    return IssuedKey(record=record, token=token)


async def list_keys(
    database: Database, organisation: str | None = None, *, after: str | None = None, limit: int | None = None
) -> list[KeyRecord]:
    """All keys, or one organisation's (by name or id), oldest first; `limit` of those that come after the key `after`
    (none where there is no such key)."""
    async with database.read() as connection:
        last = None if after is None else await directory.find_key(connection, after)
        if after is not None and last is None:
            return []
        return [record_of(row) for row in await directory.list_keys(connection, organisation, last, limit)]


async def show_key(database: Database, key_id: str) -> KeyRecord | None:
    """The key, or None where there is none."""
    async with database.read() as connection:
        return await load(connection, key_id)


async def rotate_key(
    database: Database, redis: Redis, partitions: int, pepper: bytes, key_id: str, overlap_ms: int
) -> Rotated | KeyRecord | None:
    """Give the key a new secret beside the one that it has, which ends after `overlap_ms`.

    A key has two living secrets at most: rotated again within an overlap, the older of them ends at once. The record
    alone for a key that is revoked or expired and stays so; None where there is none.
    """
    token = make_token(key_id, secrets.token_bytes(SECRET_BYTES)) if is_key_id(key_id) else ""
    async with database.write() as connection:
        before = await load(connection, key_id)
        at = clock.now_ms()
        if before is None or not living(before, at):
            return before
        await directory.rotate_key(
            connection,
            key_id,
            digest=digest(pepper, token),
            pepper=fingerprint(pepper),
            until_ms=at + overlap_ms,
            now_ms=at,
        )
        record = await load(connection, key_id)
    assert record is not None, "a row just written in this transaction"
    if not living(record, at):
        return record  # revoked in the same moment
    early = before.old_until_ms is not None and before.old_until_ms > at
    told = await tell_gateways(redis, record.organisation, partitions)
    return Rotated(record=record, token=token, ended_early=early, told=told)


async def revoke_key(database: Database, redis: Redis, partitions: int, key_id: str) -> Revoked | None:
    """Revoke it everywhere, with all of its secrets; None where there is no such key.

    First the database, then the epoch: a gateway that sees the new epoch finds the key revoked when it looks. Revoking
    again is harmless, and tells the gateways again, which mends an earlier one that could not.
    """
    async with database.write() as connection:
        await directory.revoke_key(connection, key_id, clock.now_ms())
        record = await load(connection, key_id)
    if record is None:
        return None
    return Revoked(record=record, told=await tell_gateways(redis, record.organisation, partitions))


async def count_peppers(database: Database, peppers: list[bytes]) -> list[int]:
    """How many living secrets are kept under each of these peppers, and last under others or not told apart yet."""
    async with database.read() as connection:
        counts = await directory.count_peppers(connection, clock.now_ms())
    found = [counts.pop(fingerprint(pepper), 0) for pepper in peppers]
    return [*found, sum(counts.values())]


def plan_names(folder: Path) -> list[str]:
    """The plans that a key can have: the files in the policies' folder `plans`."""
    return sorted(file.stem for file in folder.glob("*.yaml"))


def living(record: KeyRecord, at_ms: int) -> bool:
    """Whether the key opens anything at that time."""
    return record.revoked_at_ms is None and (record.expires_at_ms is None or record.expires_at_ms > at_ms)


def is_key_id(text: str) -> bool:
    """Whether it has the form of a key's id."""
    return text.startswith(ID_PREFIX) and len(text) == len(ID_PREFIX) + ID_LENGTH


async def load(connection: AsyncConnection, key_id: str) -> KeyRecord | None:
    row = await directory.find_key(connection, key_id)
    return None if row is None else record_of(row)


def record_of(row: directory.Row) -> KeyRecord:
    fields = {field: row[field] for field in KeyRecord.__struct_fields__}
    return KeyRecord(**{**fields, **{field: from_column(row[field]) for field in LISTED}})
