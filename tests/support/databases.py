"""Migrated databases of both kinds."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.storage.database import Database, connect
from gateway.storage.migrate import migrate
from tests.support.postgres import PostgresServer

PEPPER = b"a pepper for tests"


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables, once of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'catflap.db'}"
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        yield server.fresh()


@pytest.fixture
def database_url(empty_database_url: str) -> str:
    """A database at head, once of each kind."""
    migrate(empty_database_url)
    return empty_database_url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A pool on a database at head, once of each kind."""
    opened = connect(database_url)
    yield opened
    await opened.close()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """SQLite at head."""
    url = f"sqlite:///{tmp_path / 'catflap.db'}"
    migrate(url)
    return url


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[Database]:
    """A pool on SQLite at head."""
    opened = connect(sqlite_url)
    yield opened
    await opened.close()
