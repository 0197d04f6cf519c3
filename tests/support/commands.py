"""Commands on a database: run in this process, with what they read or left looked at from outside."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from gateway.core.event import RequestEvent
from gateway.storage import ledger
from gateway.storage.database import Database, connect
from gateway.storage.rows import row_of

Result = TypeVar("Result")


@pytest.fixture
def url(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A migrated database, which the environment names."""
    monkeypatch.setenv("CATFLAP_DATABASE_URL", database_url)
    monkeypatch.setenv("CATFLAP_DATA_DIR", str(tmp_path / "var"))
    return database_url


def on(url: str, work: Callable[[Database], Awaitable[Result]]) -> Result:
    """`await work(database)`."""

    async def session() -> Result:
        database = connect(url)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(session())


def book(url: str, events: Sequence[RequestEvent]) -> None:
    """As the ledger does."""

    async def work(database: Database) -> None:
        async with database.write() as connection:
            await ledger.book(connection, [row_of(each) for each in events])

    on(url, work)
