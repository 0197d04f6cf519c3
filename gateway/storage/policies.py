"""Rulesets by version, and revisions: which of them is in force since when, by whom.

A ruleset is never changed and a revision never taken away, so old decisions can be explained and numbers are never used
again.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.storage.database import Database
from gateway.storage.tables import policy_revision, policy_ruleset
from gateway.storage.upsert import insert

Files = Mapping[str, str]
"""Name of a policy file -> its text."""

WRITER_LOCK = 0x706F6C696379  # "policy": any number will do that nobody else takes


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """A change of what is in force. `version`: of a ruleset; None: whatever the directory of policies holds.
    `restores`: the revision that a rollback goes back to, 0 for the directory as it was before any."""

    number: int
    version: str | None
    containment: bool
    kind: str
    author: str
    message: str
    source: str | None = None
    restores: int | None = None
    at_ms: int


@asynccontextmanager
async def one_writer(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction beside which no other appends a revision: what it reads is the last one. SQLite has one writer
    anyway (BEGIN IMMEDIATE)."""
    async with database.write() as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(text("select pg_advisory_xact_lock(:number)"), {"number": WRITER_LOCK})
        yield connection


async def append(connection: AsyncConnection, revision: Revision) -> None:
    """Inside of `one_writer`, with the number after the last one's."""
    await connection.execute(policy_revision.insert().values(**msgspec.structs.asdict(revision)))


async def last_revision(connection: AsyncConnection) -> Revision | None:
    """The one in force; None: none was ever written."""
    found = await revisions(connection, most=1)
    return found[0] if found else None


async def revisions(
    connection: AsyncConnection, *, before: int | None = None, most: int | None = None
) -> list[Revision]:
    """The last first; `most` of them, those with a number below `before`."""
    query = select(policy_revision).order_by(policy_revision.c.number.desc()).limit(most)
    if before is not None:
        query = query.where(policy_revision.c.number < before)
    return [Revision(**row) for row in (await connection.execute(query)).mappings()]


async def archive(connection: AsyncConnection, version: str, files: Files, at_ms: int) -> None:
    """Keep a ruleset's files, once."""
    row: dict[str, Any] = {"version": version, "files": msgspec.json.encode(files).decode(), "seen_at_ms": at_ms}
    await connection.execute(insert(connection.dialect.name, policy_ruleset).values(row).on_conflict_do_nothing())


async def files_of(connection: AsyncConnection, version: str) -> Files | None:
    """A ruleset's files; None: it was never archived. Raises msgspec.DecodeError for what nobody of us wrote."""
    query = select(policy_ruleset.c.files).where(policy_ruleset.c.version == version)
    found = (await connection.execute(query)).scalar()
    return None if found is None else msgspec.json.decode(found, type=dict[str, str])
