"""How slow a busy day is: the times of each model's recent requests, read from the ledger now and then."""

import asyncio

import structlog

from gateway.policy.disguise import Spread
from gateway.storage.database import Database
from gateway.storage.times import Served, served_since
from gateway.telemetry import clock

EVERY_S = 600.0
DAY_MS = 86_400_000
FEWEST = 100
"""Requests of the last day without which nothing is known of it."""
QUANTILES = 20
LONG = 16
"""Tokens from which on an answer says how fast tokens come; of a short one a single hiccup would."""


class Spreads:
    """One process's. While the database is away, what was read last stands."""

    def __init__(self, database: Database, models: tuple[str, ...], *, timeout_s: float) -> None:
        self._database = database
        self._models = models
        self._timeout_s = timeout_s
        self._known: dict[str, Spread] = {}

    def of(self, model: str) -> Spread | None:
        """None where too little is known."""
        return self._known.get(model)

    async def keep(self) -> None:
        """Read them for ever; one task a process."""
        while True:
            try:
                await self.read(clock.now_ms())
            except Exception as problem:  # noqa: BLE001 - whatever it is: no worker need end for want of them
                structlog.get_logger().warning("spreads_not_read", error=type(problem).__name__)
            await asyncio.sleep(EVERY_S)

    async def read(self, now_ms: int) -> None:
        """Raises sqlalchemy.exc.SQLAlchemyError, OSError, TimeoutError."""
        for model in self._models:
            async with asyncio.timeout(self._timeout_s), self._database.read() as connection:
                rows = await served_since(connection, model, now_ms - DAY_MS)
            spread = spread_of(rows)
            if spread is not None:
                self._known[model] = spread


def spread_of(rows: list[Served]) -> Spread | None:
    """The quantiles of first-token times and token gaps; None of too few requests."""
    firsts = sorted(float(row.first_ms) for row in rows)
    gaps = sorted((row.duration_ms - row.first_ms) / (row.tokens - 1) for row in rows if row.tokens >= LONG)
    if len(firsts) < FEWEST or len(gaps) < FEWEST:
        return None
    return Spread(_quantiles(firsts), _quantiles(gaps))


def _quantiles(ascending: list[float]) -> tuple[float, ...]:
    last = len(ascending) - 1
    return tuple(ascending[last * step // QUANTILES] for step in range(QUANTILES + 1))
