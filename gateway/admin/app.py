"""The admin plane: whether it lives, whether what it needs is there, what it is, and the API behind its token."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from gateway import __version__
from gateway.admin.api import Api
from gateway.admin.evidence import EvidenceRoutes
from gateway.admin.guard import Guard
from gateway.evidence.seal import Seal
from gateway.quota.client import connect_redis
from gateway.storage.database import Database, connect
from gateway.storage.migrate import NotMigrated, require_head

PROBE_S = 2.0
READY = "ready"


def create(
    database_url: str,
    redis_url: str,
    *,
    token: bytes,
    pepper: bytes,
    partitions: int,
    plans: Path,
    evidence_secrets: Sequence[str],
) -> Starlette:
    """The application; it opens nothing before the first request. `token` opens the API, `plans` is the folder of the
    plan files, `evidence_secrets` open evidence. Raises ValueError for a URL that is no use."""
    database = connect(database_url, timeout_s=PROBE_S)
    redis = connect_redis(redis_url, timeout_s=PROBE_S)
    probes = Probes(database, redis)
    api = Api(database, redis, partitions, pepper, plans, EvidenceRoutes(database, Seal(evidence_secrets)))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await redis.aclose()
        await database.close()

    app = Starlette(
        routes=[
            Route("/", about),
            Route("/livez", livez),
            Route("/readyz", probes.readyz),
            Mount("/api/v1", Guard(api.app(), token)),
        ],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # the redirect would be built from the Host header
    return app


async def about(_: Request) -> JSONResponse:
    return JSONResponse({"name": "catflap", "version": __version__})


async def livez(_: Request) -> JSONResponse:
    """The process answers; nothing else is asked."""
    return JSONResponse({"live": True})


class Probes:
    """Asks each part, all at once, none for longer than PROBE_S."""

    def __init__(self, database: Database, redis: Redis) -> None:
        self._database = database
        self._redis = redis

    async def readyz(self, _: Request) -> JSONResponse:
        """One line a part; 503 when one is missing."""
        database, redis = await asyncio.gather(self._ask_database(), self._ask_redis())
        parts = {"database": database, "redis": redis}
        ready = all(line == READY for line in parts.values())
        return JSONResponse({"ready": ready, "parts": parts}, status_code=200 if ready else 503)

    async def _ask_database(self) -> str:
        try:
            async with asyncio.timeout(PROBE_S):
                await require_head(self._database)
        except NotMigrated:
            return "not at the schema of this version: run `catflap migrate`"
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            return f"unreachable ({type(error).__name__})"
        return READY

    async def _ask_redis(self) -> str:
        try:
            async with asyncio.timeout(PROBE_S):
                await self._redis.ping()
        except (RedisError, OSError, TimeoutError) as error:
            return f"unreachable ({type(error).__name__})"
        return READY
