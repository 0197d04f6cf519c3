"""Retention: deletes evidence whose time is up. Nobody is shown expired rows meanwhile (storage/evidence.py)."""

import asyncio

import structlog
from prometheus_client import Counter, Gauge
from sqlalchemy.exc import SQLAlchemyError

from gateway.storage.database import Database, connect
from gateway.storage.evidence import delete_expired
from gateway.telemetry import clock
from gateway.workers.backoff import Backoff, pause

INTERVAL_S = 300.0
BREATH_S = 0.05
"""Between two batches, so that others who write get their turn."""
BATCH = 500
DATABASE_TIMEOUT_S = 30.0

log = structlog.get_logger()
expired_total = Counter("catflap_evidence_expired", "Evidence deleted because its time was up")
errors_total = Counter("catflap_retention_errors", "Rounds of the retention that the database did not answer")
last_round = Gauge("catflap_retention_last_round_timestamp_seconds", "When all expired evidence was last gone")


async def run_retention(database_url: str, stop: asyncio.Event) -> None:
    """A round every five minutes until `stop`; a database that is away is tried again sooner."""
    database = connect(database_url, timeout_s=DATABASE_TIMEOUT_S)
    backoff = Backoff()
    away = False
    try:
        while not stop.is_set():
            try:
                await expire(database, stop)
            except (SQLAlchemyError, OSError, TimeoutError) as problem:
                errors_total.inc()
                if not away:
                    log.error("retention_waits", error=type(problem).__name__)
                away = True
                await backoff.wait(stop)
                continue
            away = False
            backoff.reset()
            await pause(stop, INTERVAL_S)
    finally:
        await database.close()


async def expire(database: Database, stop: asyncio.Event) -> int:
    """One round, in small transactions; how many it deleted."""
    deleted, now_ms = 0, clock.now_ms()
    while not stop.is_set():
        async with asyncio.timeout(DATABASE_TIMEOUT_S):
            gone = await delete_expired(database, now_ms, BATCH)
        expired_total.inc(gone)
        deleted += gone
        if gone < BATCH:
            last_round.set(now_ms / 1000)
            break
        await pause(stop, BREATH_S)
    if deleted:
        log.info("evidence_expired", count=deleted)
    return deleted
