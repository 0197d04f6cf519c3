"""Evidence while its database is away, refuses something or is stopped: what is lost is counted, the rest is not."""

import asyncio
import random
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from gateway.canary.phrase import words_of
from gateway.evidence import writer
from gateway.evidence.seal import Seal
from gateway.evidence.writer import Evidence, Writer
from gateway.storage.database import Database, connect
from gateway.storage.migrate import migrate
from gateway.telemetry import clock
from gateway.workers import retention
from tests.support.eventually import eventually
from tests.support.evidence import PLAIN, SECRET, count, holds, keep, lost, one, writer_of, writing
from tests.support.postgres import PostgresServer


async def test_what_has_no_room_to_wait_is_not_made_to(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_WAITING", 4)
    async with writing(Writer(database, Seal([SECRET]), days=30, gather_s=(60.0, 60.0))) as on:
        await asyncio.sleep(0.05)
        keep(on, one(1))
        keep(on, one(2))
        await eventually(lambda: count(database, "evidence"))


async def test_what_cannot_be_put_together_is_lost_alone_and_counted(database: Database) -> None:
    def fail() -> Evidence:
        raise MemoryError(PLAIN)

    before, on = lost("unmade"), Writer(database, Seal([SECRET]), days=30, gather_s=(0.05, 0.1))
    async with writing(on):
        keep(on, one(1))
        on.keep(100, fail)
        keep(on, one(2))
        await eventually(lambda: holds(database, 2))
        on.keep(100, fail)
        await eventually(lambda: lost("unmade") - before == 2)
        keep(on, one(3))
    assert await count(database, "evidence") == 3
    assert on._bytes == 0


async def test_a_restart_loses_nothing_that_was_closed(database: Database) -> None:
    on = writer_of(database)
    for number in range(120):
        keep(on, one(number))
    on.gave("prin_1", words_of(b"k", "prin_1"), 5)
    await on.close()
    assert await count(database, "evidence") == 120
    assert await count(database, "canary") == 1


async def test_while_the_database_is_away_it_takes_what_it_has_room_for_and_counts_the_rest(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(writer, "MAX_WAITING", 10)
    monkeypatch.setattr(writer, "LONGEST_PAUSE_S", 0.2)
    file = tmp_path / "catflap.db"
    moved = file.rename(tmp_path / "elsewhere.db")
    file.mkdir()  # there is no opening a folder as a database
    database = connect(sqlite_url, timeout_s=1)
    before = lost("full")
    async with writing(writer_of(database, timeout_s=1)) as on:
        keep(on, one(0))
        await eventually(lambda: on._sealed[0], what="a write that fails")
        for number in range(1, 31):
            keep(on, one(number))
            on.gave("prin_1", words_of(b"k", "prin_1"), 5)
        assert lost("full") - before == 20
        file.rmdir()
        moved.rename(file)
        await eventually(lambda: holds(database, 11), what="all that was taken being written")
    assert await count(database, "canary") == 1
    await database.close()


async def test_what_waits_is_bounded_in_bytes_too(sqlite: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_BYTES", 50_000)
    before, on = lost("full"), writer_of(sqlite)
    for number in range(10):
        keep(on, one(number, size=5000))
    kept = 10 - int(lost("full") - before)
    assert 2 <= kept < 6
    await on.close()
    assert await count(sqlite, "evidence") == kept
    keep(on, one(99, size=5000))
    await on.close()
    assert await count(sqlite, "evidence") == kept + 1, "what was written makes room"


async def test_closing_while_the_database_is_away_ends_and_counts_what_is_lost(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CLOSE_S", 1.0)
    file = tmp_path / "catflap.db"
    file.unlink()
    file.mkdir()
    database, before = connect(sqlite_url, timeout_s=1), lost("closing")
    on = writer_of(database)
    for number in range(3):
        keep(on, one(number))
    await asyncio.wait_for(on.close(), 30)
    assert lost("closing") - before == 3
    await database.close()


async def test_a_row_that_the_database_refuses_does_not_hold_up_the_others(database: Database) -> None:
    if database.dialect == "sqlite":
        pytest.skip("SQLite takes texts of any length")
    before, on = lost("refused"), writer_of(database)
    keep(on, one(1))
    keep(on, one(2)._replace(organisation="o" * 100))
    keep(on, one(3))
    await on.close()
    assert await count(database, "evidence") == 2
    assert lost("refused") - before == 1


async def test_the_retention_waits_for_a_database_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "catflap.db"
    file.mkdir()
    url, stop = f"sqlite:///{file}", asyncio.Event()
    name = "catflap_retention_errors_total"
    before = REGISTRY.get_sample_value(name) or 0.0
    task = asyncio.create_task(retention.run_retention(url, stop))
    await eventually(lambda: (REGISTRY.get_sample_value(name) or 0.0) >= before + 2)
    file.rmdir()
    await asyncio.to_thread(migrate, url)
    began = clock.now_ms() / 1000
    await eventually(
        lambda: (REGISTRY.get_sample_value("catflap_retention_last_round_timestamp_seconds") or 0) >= began - 1,
        within_s=20,
    )
    stop.set()
    await asyncio.wait_for(task, 30)


async def test_stopped_at_any_moment_it_loses_nothing_that_it_had_taken(database: Database) -> None:
    dice = random.Random(3)
    for round_ in range(15):
        async with writing(writer_of(database)) as on:
            for number in range(20):
                keep(on, one(100 * round_ + number, size=20_000))
                await asyncio.sleep(0)
            await asyncio.sleep(dice.random() / 50)
    assert await count(database, "evidence") == 300


async def test_a_postgresql_that_dies_and_comes_back_gets_everything_once(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "LONGEST_PAUSE_S", 0.2)
    url = postgres_server.fresh()
    await asyncio.to_thread(migrate, url)
    database = connect(url, timeout_s=2)
    before = REGISTRY.get_sample_value("catflap_evidence_errors_total") or 0.0
    async with writing(writer_of(database, timeout_s=2)) as on:
        keep(on, one(0))
        await eventually(lambda: holds(database, 1))
        await asyncio.to_thread(postgres_server.stop)
        try:
            for number in range(1, 6):
                keep(on, one(number))
            on.gave("prin_1", words_of(b"k", "prin_1"), 5)
            await eventually(lambda: (REGISTRY.get_sample_value("catflap_evidence_errors_total") or 0.0) > before)
        finally:
            await asyncio.to_thread(postgres_server.start)
        await eventually(lambda: holds(database, 6), within_s=20)
    assert await count(database, "canary") == 1
    await database.close()
