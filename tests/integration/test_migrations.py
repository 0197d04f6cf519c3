"""The migrated schema, on both databases."""

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import MetaData, create_engine, insert, inspect, text
from sqlalchemy.exc import IntegrityError

from gateway.storage.database import SYNC_DRIVERS, WRITES, connect, driver_url, prepare
from gateway.storage.migrate import NotMigrated, alembic_config, migrate, require_head
from gateway.storage.tables import METADATA, organisation, principal


def test_the_migrated_schema_is_the_one_that_the_code_describes(database_url: str) -> None:
    engine = create_engine(driver_url(database_url, SYNC_DRIVERS))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "render_as_batch": True})
        assert compare_metadata(context, METADATA) == []
    engine.dispose()


async def test_constraints_hold_in_the_database_itself(database_url: str) -> None:
    database = connect(database_url)
    row = {"id": "prin_1", "project_id": "proj_none", "kind": "person", "name": "ann", "created_at_ms": 1}
    for wrong in (row, {**row, "kind": "robot"}):
        with pytest.raises(IntegrityError):
            async with database.write() as connection:
                await connection.execute(insert(principal).values(**wrong))
    with pytest.raises(IntegrityError):
        async with database.write() as connection:
            for number in ("org_1", "org_2"):
                await connection.execute(insert(organisation).values(id=number, name="acme", created_at_ms=1))
    await database.close()


async def test_a_database_that_is_not_at_head_is_said_to_be_so(empty_database_url: str) -> None:
    database = connect(empty_database_url)
    with pytest.raises(NotMigrated, match="catflap migrate"):
        await require_head(database)
    migrate(empty_database_url)
    await require_head(database)
    async with database.write() as connection:
        await connection.execute(text("update alembic_version set version_num = 'other'"))
    with pytest.raises(NotMigrated):
        await require_head(database)
    await database.close()


@pytest.mark.slow
def test_several_processes_may_migrate_at_once_from_anywhere(empty_database_url: str, tmp_path: Path) -> None:
    script = "import sys; from gateway.storage.migrate import migrate; migrate(sys.argv[1])"
    arguments = [sys.executable, "-W", "error", "-c", script, empty_database_url]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    processes = [subprocess.Popen(arguments, cwd=tmp_path, env=environment) for _ in range(4)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    migrate(empty_database_url)  # once more: nothing to do


def test_a_migration_that_fails_half_way_leaves_nothing_behind(empty_database_url: str) -> None:
    engine = create_engine(driver_url(empty_database_url, SYNC_DRIVERS))
    prepare(engine)
    with engine.execution_options(**{WRITES: True}).begin() as connection:
        connection.execute(text("create table request_event (request int)"))  # in the migration's way
    with pytest.raises(Exception, match="request_event"):
        migrate(empty_database_url)
    assert inspect(engine).get_table_names() == ["request_event"]
    engine.dispose()


def test_the_first_migration_can_be_taken_back(database_url: str) -> None:
    engine = create_engine(driver_url(database_url, SYNC_DRIVERS))
    prepare(engine)
    config = alembic_config()
    with engine.execution_options(**{WRITES: True}).begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    engine.dispose()


def test_events_of_the_first_version_are_in_the_roll_ups_and_survive_the_way_back(empty_database_url: str) -> None:
    engine = create_engine(driver_url(empty_database_url, SYNC_DRIVERS))
    prepare(engine)
    config = alembic_config()

    def move(how: Callable[[Config, str], None], revision: str) -> None:
        with engine.execution_options(**{WRITES: True}).begin() as connection:
            config.attributes["connection"] = connection
            how(config, revision)

    move(command.upgrade, "0002")
    first = {
        "v": 1, "organisation": "o", "project": "p", "principal": "r", "key": "k", "plan": "free", "endpoint": "chat",
        "model": "demo", "stream": False, "outcome": "completed", "status": 200, "prompt_tokens": 10,
        "completion_tokens": 5, "reserved_tokens": 20, "choices": 1, "duration_ms": 3, "attempts": 1,
    }  # fmt: skip
    hour = 3_600_000
    old = MetaData()
    with engine.execution_options(**{WRITES: True}).begin() as connection:
        old.reflect(connection, only=["request_event"])
        rows = [{**first, "request": f"req_{i}", "at_ms": i * hour + 7} for i in (0, 1, 1.5, 30)]
        connection.execute(insert(old.tables["request_event"]), rows)
    move(command.upgrade, "head")
    with engine.connect() as connection:
        hours = connection.execute(text("select start_ms, requests, prompt_tokens, cost from usage_hour order by 1"))
        assert hours.fetchall() == [(0, 1, 10, 0), (hour, 2, 20, 0), (30 * hour, 1, 10, 0)]
        days = connection.execute(text("select start_ms, requests, region from usage_day order by 1"))
        assert days.fetchall() == [(0, 3, ""), (24 * hour, 1, "")]
    move(command.downgrade, "0002")
    with engine.connect() as connection:
        assert connection.execute(text("select count(*) from request_event")).scalar_one() == 4
    move(command.upgrade, "head")
    engine.dispose()


def test_the_second_migration_can_be_taken_back_and_frees_no_key_of_what_it_was_held_to(database_url: str) -> None:
    engine = create_engine(driver_url(database_url, SYNC_DRIVERS))
    prepare(engine)
    config = alembic_config()
    with engine.execution_options(**{WRITES: True}).begin() as connection:
        for statement in (
            "insert into organisation (id, name, created_at_ms) values ('org_1', 'acme', 1)",
            "insert into project (id, organisation_id, name, created_at_ms) values ('proj_1', 'org_1', 'web', 1)",
            "insert into principal (id, project_id, kind, name, created_at_ms)"
            " values ('prin_1', 'proj_1', 'person', 'ann', 1)",
            'insert into principal_limit (principal_id, measure, per, model, "limit", changed_at_ms)'
            " values ('prin_1', 'tokens', 'day', '', 5, 1)",
            "insert into key (id, principal_id, digest, plan, created_at_ms) values ('free', 'prin_1', '', 'p', 1)",
            "insert into key (id, principal_id, digest, plan, created_at_ms, scopes)"
            " values ('bound', 'prin_1', '', 'p', 1, '[\"chat\"]')",
        ):
            connection.execute(text(statement))
    with engine.execution_options(**{WRITES: True}).begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    assert "principal_limit" not in inspect(engine).get_table_names()
    columns = {column["name"] for column in inspect(engine).get_columns("key")}
    assert columns == {"id", "principal_id", "digest", "plan", "name", "created_at_ms", "expires_at_ms",
                       "revoked_at_ms"}  # fmt: skip
    with engine.connect() as connection:
        revoked = connection.execute(text("select id from key where revoked_at_ms is not null")).scalars().all()
    assert revoked == ["bound"]
    migrate(database_url)  # and up again, with rows in the tables
    with engine.connect() as connection:
        assert connection.execute(text("select count(*) from key where pepper is null")).scalar_one() == 2
    engine.dispose()


async def test_sqlite_is_in_wal_mode_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "new folder 100%" / "catflap.db"
    migrate(f"sqlite:///{file}")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    database = connect(f"sqlite:///{file}", timeout_s=3)
    async with database.read() as connection:
        for pragma, value in {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 3000, "synchronous": 2}.items():
            assert (await connection.execute(text(f"pragma {pragma}"))).scalar_one() == value
    await database.close()


async def test_those_that_read_and_then_write_wait_for_each_other(database_url: str) -> None:
    """On SQLite a transaction that reads first and then writes would fail at once while another one writes."""
    database = connect(database_url)

    async def read_then_write(name: str) -> None:
        async with database.write() as connection:
            await connection.execute(text("select count(*) from organisation"))
            await connection.execute(insert(organisation).values(id=name, name=name, created_at_ms=1))

    await asyncio.gather(*(read_then_write(f"org_{number}") for number in range(10)))
    async with database.read() as connection:
        assert (await connection.execute(text("select count(*) from organisation"))).scalar_one() == 10
    await database.close()
