"""What the ledger's tests share: filling streams, reading the books, and waiting for them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.core import event
from gateway.core.event import RequestEvent
from gateway.quota.keys import events_key
from gateway.storage.database import Database
from gateway.storage.tables import ledger_reject, request_event


async def append(redis: Redis, partition: int, events: Iterable[RequestEvent | bytes], ids: str = "*") -> None:
    """Put events, or bytes that are none, on a partition's stream."""
    pipe = redis.pipeline(transaction=False)
    for entry in events:
        pipe.xadd(events_key(partition), {"e": entry if isinstance(entry, bytes) else event.encode(entry)}, id=ids)
    await pipe.execute()


async def booked(database: Database) -> dict[str, int]:
    """Request -> tokens, as the database has them."""
    async with database.read() as connection:
        rows = (await connection.execute(select(request_event))).mappings().all()
    return {row["request"]: row["prompt_tokens"] + row["completion_tokens"] for row in rows}


async def rejects(database: Database) -> list[dict[str, Any]]:
    async with database.read() as connection:
        rows = (await connection.execute(select(ledger_reject).order_by(ledger_reject.c.entry))).mappings().all()
    return [dict(row) for row in rows]


class WatchedDatabase(Database):
    """A real database that tells when something was committed, by itself or by the `other` one."""

    def __init__(self, database: Database, other: "WatchedDatabase | None" = None) -> None:
        super().__init__(database.engine)
        self.tried = asyncio.Event()
        self._committed: asyncio.Condition = other._committed if other else asyncio.Condition()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        self.tried.set()
        async with super().write() as connection:
            yield connection
        async with self._committed:
            self._committed.notify_all()

    async def holds(self, events: int) -> None:
        """Returns when that many are booked."""
        async with self._committed:
            while await self._count() < events:
                await self._committed.wait()

    async def _count(self) -> int:
        async with self.read() as connection:
            return int((await connection.execute(select(func.count()).select_from(request_event))).scalar_one())
