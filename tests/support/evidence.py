"""Evidence of requests that never were, and the writer that takes it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import REGISTRY
from sqlalchemy import func, select

from gateway.evidence.seal import Seal
from gateway.evidence.writer import Evidence, Writer
from gateway.storage.database import Database
from gateway.storage.tables import METADATA
from gateway.telemetry import clock

SECRET, OLDER = "a secret of these tests", "the secret before it"
PLAIN = "the moon landing was catalogued by nobody in particular"


def one(number: int = 1, *, principal: str = "prin_1", size: int = 0) -> Evidence:
    asked = json.dumps({"messages": [{"role": "user", "content": PLAIN + "x" * size}]}).encode()
    return Evidence(f"req_{number}", "org_1", principal, clock.now_ms(), asked, b"sent: " + asked, (PLAIN,))


def keep(on: Writer, evidence: Evidence) -> None:
    on.keep(1000 + len(evidence.asked) + len(evidence.sent) + 4 * sum(map(len, evidence.answers)), lambda: evidence)


def writer_of(database: Database, *, days: int = 30, timeout_s: float = 5.0) -> Writer:
    return Writer(database, Seal([SECRET]), days=days, timeout_s=timeout_s)


@asynccontextmanager
async def writing(on: Writer) -> AsyncIterator[Writer]:
    task = asyncio.create_task(on.keep_writing())
    try:
        yield on
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await on.close()


async def count(database: Database, table: str) -> int:
    async with database.read() as connection:
        found: int = (await connection.execute(select(func.count()).select_from(METADATA.tables[table]))).scalar_one()
        return found


async def holds(database: Database, rows: int) -> bool:
    """Whether so much evidence is in it."""
    return await count(database, "evidence") == rows


def lost(cause: str) -> float:
    return REGISTRY.get_sample_value("catflap_evidence_dropped_total", {"cause": cause}) or 0.0
