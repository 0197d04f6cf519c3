"""The schema: bring it to head, or say whether it is there."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.pool import NullPool

import gateway
from gateway.storage.database import SYNC_DRIVERS, WRITES, Database, connect_args, driver_url, prepare, sqlite_file

LOCK_TIMEOUT_S = 60.0
ADVISORY_LOCK = 0x636174666C6170  # "catflap": any number will do, so long as every process takes the same


class NotMigrated(Exception):
    """The database's schema is not the one that this code was written for."""

    def __init__(self) -> None:
        super().__init__("the database is not at the schema of this version: run `catflap migrate`")


def migrate(url: str) -> None:
    """Bring the database at `url` to head, making a SQLite file that is not there. Two processes may do this at once:
    the second waits, then finds nothing to do. Raises ValueError, sqlalchemy.exc.SQLAlchemyError, OSError."""
    target = driver_url(url, SYNC_DRIVERS)
    file = sqlite_file(target)
    engine = create_engine(target, poolclass=NullPool, connect_args=connect_args(target, LOCK_TIMEOUT_S))
    prepare(engine)
    try:
        if file is None:
            upgrade(engine)
        else:
            with alone(file):
                turn_wal_on(engine)
                upgrade(engine)
    finally:
        engine.dispose()


async def require_head(database: Database) -> None:
    """Raises NotMigrated unless the schema is at head; sqlalchemy.exc.SQLAlchemyError when that cannot be learnt."""
    if database.missing():
        raise NotMigrated
    async with database.read() as connection:
        heads = await connection.run_sync(current_heads)
    if heads != tuple(ScriptDirectory.from_config(alembic_config()).get_heads()):
        raise NotMigrated


def upgrade(engine: Engine) -> None:
    """One transaction from lock to version number: a migration that dies half-way leaves nothing behind."""
    config = alembic_config()
    with engine.execution_options(**{WRITES: True}).begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("select pg_advisory_xact_lock(:number)"), {"number": ADVISORY_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def current_heads(connection: Connection) -> tuple[str, ...]:
    """The revisions that the database says it is at."""
    return tuple(MigrationContext.configure(connection).get_current_heads())


def alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    return config


def migrations_folder() -> Path:
    """Beside the package in a checkout, inside it in a wheel."""
    package = Path(gateway.__file__).resolve().parent
    inside = package / "share" / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Hold the only right to change `file`'s schema, and see that it exists, readable by its owner alone.

    A file of its own carries the lock: closing any descriptor of the database file itself would drop SQLite's locks.
    The kernel frees it with its holder, however that ends.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(file.with_name(file.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        yield
    finally:
        os.close(lock)


def turn_wal_on(engine: Engine) -> None:
    """The mode is a property of the file, so it is set here, where nobody races us, and never again on connecting."""
    with engine.connect() as connection:
        connection.rollback()
        connection.connection.cursor().execute("PRAGMA journal_mode = WAL")
