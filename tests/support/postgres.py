"""A real PostgreSQL for the session, on a unix socket, with a fresh database for each test."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.house.postgres import PostgresServer, find_postgres
from tests.support.missing import missing

__all__ = ["PostgresServer", "postgres_binaries"]


def postgres_binaries() -> Path:
    return find_postgres() or missing("PostgreSQL (initdb, pg_ctl)")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Running; a test that stops it starts it again."""
    binaries = postgres_binaries()
    with tempfile.TemporaryDirectory(prefix="cf-pg-") as folder:
        server = PostgresServer(binaries, Path(folder))
        server.create()
        server.start()
        yield server
        server.stop()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """An empty database."""
    return postgres_server.fresh()
