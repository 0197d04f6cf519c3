"""A database from its URL: SQLite on one machine, PostgreSQL beyond; every wait in it is bounded.

The two dialects differ here and nowhere else.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

ASYNC_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
SYNC_DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
WRITES = "catflap_writes"
POOL_SIZE = 5
POOL_OVERFLOW = 5
POOL_RECYCLE_S = 1800


class Database:
    """One process's pool of connections. `read` and `write` are the only ways in."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._writer = engine.execution_options(**{WRITES: True})

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self.engine.dialect.name

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that only reads. Raises sqlalchemy.exc.SQLAlchemyError: down, slow, exhausted."""
        async with self.engine.begin() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that may write: committed at the end of the block, rolled back on any error."""
        async with self._writer.begin() as connection:
            yield connection

    def missing(self) -> bool:
        """Whether this is a SQLite file that is not there (connecting would make an empty one)."""
        file = sqlite_file(self.engine.url)
        return file is not None and not file.exists()

    async def close(self) -> None:
        await self.engine.dispose()


def connect(url: str, *, timeout_s: float = 5.0) -> Database:
    """The database at `url`; nothing is sent yet. `timeout_s` bounds each of: the wait for a connection from the pool,
    connecting, one statement, one lock. Raises ValueError for a URL of another kind of database."""
    target = driver_url(url, ASYNC_DRIVERS)
    engine = create_async_engine(
        target,
        pool_timeout=timeout_s,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_recycle=POOL_RECYCLE_S,
        pool_pre_ping=True,
        connect_args=connect_args(target, timeout_s),
    )
    prepare(engine.sync_engine)
    return Database(engine)


def driver_url(url: str, drivers: dict[str, str]) -> URL:
    """`url` with our driver for its kind of database, whatever driver it named. Raises ValueError."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError("the database's URL cannot be read") from None  # their text may show it, password and all
    kind = parsed.get_backend_name()
    if kind not in drivers:
        raise ValueError(f"a database of kind {kind!r} is not supported: use sqlite:/// or postgresql://")
    if kind == "sqlite" and sqlite_file(parsed) is None:
        raise ValueError("SQLite needs a file: a database in memory is lost between connections")
    return parsed.set(drivername=drivers[kind])


def sqlite_file(url: URL) -> Path | None:
    """The file of a SQLite URL; None for another database, or for one in memory."""
    if url.get_backend_name() != "sqlite" or url.database in {None, "", ":memory:"}:
        return None
    return Path(str(url.database))


def connect_args(url: URL, timeout_s: float) -> dict[str, Any]:
    """What the driver needs so that no wait is without end."""
    if url.get_backend_name() == "sqlite":
        return {"timeout": timeout_s}
    milliseconds = max(1, int(timeout_s * 1000))
    return {
        "connect_timeout": max(2, int(timeout_s)),  # libpq takes whole seconds, two at least
        "application_name": "catflap",
        "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}",
    }


def prepare(engine: Any) -> None:
    """Give SQLite the behaviour that the rest of this package counts on; PostgreSQL has it by itself.

    Python's sqlite3 begins transactions late and not at all before DDL, and a transaction that reads first and then
    writes fails at once with SQLITE_BUSY whatever the busy timeout. So we begin them ourselves, and those that write
    ask for the write lock at the start.
    """
    if engine.dialect.name != "sqlite":
        return

    def on_connect(connection: DBAPIConnection, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        # FULL, not NORMAL: once the ledger has committed, it trims the stream; a power cut may then lose nothing.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    def on_begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
