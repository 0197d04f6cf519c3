"""What the commands about keys and principals share: the database and Redis, and what can go wrong there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from redis.asyncio import Redis
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from gateway.commands.console import BAD_USAGE, fail, warn
from gateway.identity.bounds import BadBound
from gateway.identity.names import BadName
from gateway.identity.principals import BadOverride
from gateway.identity.regard import BadRegard
from gateway.quota.client import connect_redis
from gateway.settings import Settings
from gateway.storage.database import Database, connect
from gateway.storage.migrate import NotMigrated, require_head

Result = TypeVar("Result")

REDIS_TIMEOUT_S = 2.0


def run(settings: Settings, work: Callable[[Database], Awaitable[Result]]) -> Result:
    """Do `work` on the settings' database; what can go wrong there ends the command with one sentence."""

    async def session() -> Result:
        database = connect(settings.database(), timeout_s=settings.database_timeout_s)
        try:
            await require_head(database)
            return await work(database)
        finally:
            await database.close()

    try:
        return asyncio.run(session())
    except NotMigrated:
        fail("The database is not at the schema of this version: run `catflap migrate`.")
    except BadName as error:
        fail(f"That cannot be a name: {error}.", BAD_USAGE)
    except (BadBound, BadOverride, BadRegard) as error:
        fail(f"That cannot be set: {error}.", BAD_USAGE)
    except ValueError as error:
        fail(f"CATFLAP_DATABASE_URL or CATFLAP_REDIS_URL is no use: {error}.", BAD_USAGE)
    except OperationalError as error:
        if "locked" in str(error.orig):
            fail("The database is locked by another process for longer than this command waits: try again.")
        fail("The database does not answer: see CATFLAP_DATABASE_URL.")
    except (SQLAlchemyError, OSError) as error:
        fail(f"The database cannot be used ({type(error).__name__}): see CATFLAP_DATABASE_URL.")


@asynccontextmanager
async def telling(settings: Settings, *, timeout_s: float = REDIS_TIMEOUT_S) -> AsyncIterator[Redis]:
    """Redis, to tell the gateways of a change."""
    redis = connect_redis(settings.redis(), timeout_s=timeout_s)
    try:
        yield redis
    finally:
        await redis.aclose()


def warn_untold(settings: Settings, done: str) -> None:
    """The change is made, the gateways have not heard of it."""
    warn(
        f"{done}, but Redis could not be reached to tell the gateways: they may go on as before for up to "
        f"{settings.directory_cache_s:g} seconds more. Run the command again to tell them."
    )


def moment(milliseconds: int | None) -> str:
    """A time as people read it; empty where there is none."""
    if milliseconds is None:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def to_json(values: object) -> str:
    """One line."""
    return msgspec.json.encode(values).decode()
