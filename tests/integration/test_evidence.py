"""Evidence and canaries: written behind requests' backs, unreadable at rest, gone in time, and every reading told."""

import asyncio
import json
import random
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import func, make_url, select, text

from gateway.canary.phrase import words_of
from gateway.evidence import read, writer
from gateway.evidence.content import Content
from gateway.evidence.read import read_evidence
from gateway.evidence.seal import Seal, Unreadable
from gateway.evidence.writer import DAY_MS, Evidence, Writer
from gateway.storage import canaries, evidence
from gateway.storage.canaries import Given
from gateway.storage.database import Database, connect, sqlite_file
from gateway.storage.ledger import digest_of
from gateway.storage.migrate import migrate
from gateway.storage.tables import METADATA, erased_principal
from gateway.telemetry import clock
from gateway.workers import retention
from tests.support.eventually import eventually
from tests.support.postgres import PostgresServer, postgres_binaries

SECRET, OLDER = "a secret of these tests", "the secret before it"
PLAIN = "the moon landing was catalogued by nobody in particular"


def one(number: int = 1, *, principal: str = "prin_1", size: int = 0) -> Evidence:
    asked = json.dumps({"messages": [{"role": "user", "content": PLAIN + "x" * size}]}).encode()
    return Evidence(f"req_{number}", "org_1", principal, clock.now_ms(), asked, b"sent: " + asked, (PLAIN,))


def keep(on: Writer, evidence: Evidence) -> None:
    on.keep(1000 + len(evidence.asked) + len(evidence.sent) + 4 * sum(map(len, evidence.answers)), lambda: evidence)


def writer_of(database: Database, *, days: int = 30, timeout_s: float = 5.0) -> Writer:
    return Writer(database, Seal([SECRET]), days=days, timeout_s=timeout_s)


@asynccontextmanager
async def writing(on: Writer) -> AsyncIterator[Writer]:
    task = asyncio.create_task(on.keep_writing())
    try:
        yield on
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await on.close()


async def count(database: Database, table: str) -> int:
    async with database.read() as connection:
        found: int = (await connection.execute(select(func.count()).select_from(METADATA.tables[table]))).scalar_one()
        return found


def lost(cause: str) -> float:
    return REGISTRY.get_sample_value("catflap_evidence_dropped_total", {"cause": cause}) or 0.0


async def test_what_is_kept_can_be_read_by_whoever_has_the_key_and_says_why(database: Database) -> None:
    async with writing(writer_of(database)) as on:
        keep(on, one())
        await eventually(lambda: count(database, "evidence"))
    opened = await read_evidence(database, Seal([SECRET]), "req_1", reader="ann", reason="ticket 7")
    assert opened is not None
    assert PLAIN in opened.content.asked.text
    assert opened.content.sent.text.startswith("sent: ")
    assert [answer.text for answer in opened.content.answers] == [PLAIN]
    assert opened.expires_at_ms == opened.at_ms + 30 * DAY_MS


async def test_evidence_is_gathered_for_a_while_before_it_is_written(database: Database) -> None:
    """Written at once, it would make whichever request came next a little later."""
    on = Writer(database, Seal([SECRET]), days=30, gather_s=(0.4, 0.5))
    async with writing(on):
        await asyncio.sleep(0.05)
        began = asyncio.get_running_loop().time()
        keep(on, one(1))
        await asyncio.sleep(0.2)
        keep(on, one(2))
        assert not await count(database, "evidence")
        await eventually(lambda: count(database, "evidence"))
        assert asyncio.get_running_loop().time() - began >= 0.4
        assert await count(database, "evidence") == 2


async def test_what_has_no_room_to_wait_is_not_made_to(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_WAITING", 4)
    async with writing(Writer(database, Seal([SECRET]), days=30, gather_s=(60.0, 60.0))) as on:
        await asyncio.sleep(0.05)
        keep(on, one(1))
        keep(on, one(2))
        await eventually(lambda: count(database, "evidence"))


async def test_what_is_kept_is_put_together_when_it_is_written_and_not_on_the_event_loop(database: Database) -> None:
    threads: list[threading.Thread] = []

    def make() -> Evidence:
        threads.append(threading.current_thread())
        return one()

    on = Writer(database, Seal([SECRET]), days=30, gather_s=(0.1, 0.2))
    async with writing(on):
        on.keep(5000, make)
        assert not threads
        await eventually(lambda: count(database, "evidence"))
    assert threads
    assert threading.current_thread() not in threads


async def test_what_cannot_be_put_together_is_lost_alone_and_counted(database: Database) -> None:
    def fail() -> Evidence:
        raise MemoryError(PLAIN)

    before, on = lost("unmade"), Writer(database, Seal([SECRET]), days=30, gather_s=(0.05, 0.1))
    async with writing(on):
        keep(on, one(1))
        on.keep(100, fail)
        keep(on, one(2))
        await eventually(lambda: two(database))
        on.keep(100, fail)
        await eventually(lambda: lost("unmade") - before == 2)
        keep(on, one(3))
    assert await count(database, "evidence") == 3
    assert on._bytes == 0


async def two(database: Database) -> bool:
    return await count(database, "evidence") == 2


async def test_nothing_readable_is_in_the_database(database: Database, database_url: str, tmp_path: Path) -> None:
    on = writer_of(database)
    keep(on, one(size=5000))
    await on.close()
    await database.close()
    raw = dump(database_url)
    assert b"req_1" in raw
    for known in (PLAIN, "moon landing", '"content"', "xxxxxxxx", SECRET):
        assert known.encode() not in raw
        assert known.encode().hex().encode() not in raw, "nor as PostgreSQL writes bytes"


def dump(url: str) -> bytes:
    """All that is in the database, as its file or its dump has it."""
    parsed = make_url(url)
    file = sqlite_file(parsed)
    if file is not None:
        return b"".join(path.read_bytes() for path in file.parent.glob(file.name + "*"))
    tool = postgres_binaries() / "pg_dump"
    plain_url = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    return subprocess.run([str(tool), "-d", plain_url], check=True, capture_output=True).stdout


async def test_written_twice_it_is_there_once(database: Database) -> None:
    for _ in range(2):
        on = writer_of(database)
        keep(on, one())
        await on.close()
    assert await count(database, "evidence") == 1


async def test_a_restart_loses_nothing_that_was_closed(database: Database) -> None:
    on = writer_of(database)
    for number in range(120):
        keep(on, one(number))
    on.gave("prin_1", words_of(b"k", "prin_1"), 5)
    await on.close()
    assert await count(database, "evidence") == 120
    assert await count(database, "canary") == 1


async def test_for_no_days_no_evidence_is_kept_but_canaries_are(database: Database) -> None:
    on = writer_of(database, days=0)
    keep(on, one())
    on.gave("prin_1", words_of(b"k", "prin_1"), 5)
    await on.close()
    assert await count(database, "evidence") == 0
    assert await count(database, "canary") == 1


async def test_a_canary_keeps_its_first_and_last_use_whatever_order_they_are_written_in(database: Database) -> None:
    words = words_of(b"k", "prin_1")
    for first, last in ((50, 60), (10, 20), (90, 90), (30, 40)):
        async with database.write() as connection:
            await canaries.note(connection, [Given("prin_1", words, first, last), Given("prin_2", words, 1, 1)])
    async with database.read() as connection:
        assert [given async for given in canaries.every(connection)] == [
            Given("prin_1", words, 10, 90),
            Given("prin_2", words, 1, 1),
        ]


async def test_while_the_database_is_away_it_takes_what_it_has_room_for_and_counts_the_rest(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(writer, "MAX_WAITING", 10)
    monkeypatch.setattr(writer, "LONGEST_PAUSE_S", 0.2)
    file = tmp_path / "catflap.db"
    moved = file.rename(tmp_path / "elsewhere.db")
    file.mkdir()  # there is no opening a folder as a database
    database = connect(sqlite_url, timeout_s=1)
    before, loop = lost("full"), asyncio.get_running_loop()
    async with writing(writer_of(database, timeout_s=1)) as on:
        keep(on, one(0))
        await eventually(lambda: on._sealed[0], what="a write that fails")
        slowest = 0.0
        for number in range(1, 31):
            began = loop.time()
            keep(on, one(number))
            on.gave("prin_1", words_of(b"k", "prin_1"), 5)
            slowest = max(slowest, loop.time() - began)
        assert lost("full") - before == 20
        file.rmdir()
        moved.rename(file)
        await eventually(lambda: eleven(database), what="all that was taken being written")
    assert await count(database, "canary") == 1
    await database.close()


async def eleven(database: Database) -> bool:
    return await count(database, "evidence") == 11


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


async def test_the_evidence_of_an_erased_principal_is_not_written_however_late_it_comes(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(erased_principal.insert().values(digest=digest_of("prin_gone"), erased_at_ms=1))
    on = writer_of(database)
    keep(on, one(1, principal="prin_gone"))
    keep(on, one(2))
    on.gave("prin_gone", words_of(b"k", "prin_gone"), 5)
    await on.close()
    assert await count(database, "evidence") == 1
    assert await count(database, "canary") == 0


async def test_under_another_key_old_evidence_is_read_until_the_old_key_goes(database: Database) -> None:
    on = Writer(database, Seal([OLDER]), days=1)
    keep(on, one())
    await on.close()
    opened = await read_evidence(database, Seal([SECRET, OLDER]), "req_1", reader="ann", reason="ticket 7")
    assert opened is not None
    with pytest.raises(Unreadable, match="CATFLAP_EVIDENCE_KEY_OLD"):
        await read_evidence(database, Seal([SECRET]), "req_1", reader="ann", reason="ticket 8")
    assert await count(database, "evidence_reading") == 2, "whoever tried is written down too"


async def test_rows_that_were_swapped_in_the_database_are_not_shown(database: Database) -> None:
    on = writer_of(database)
    keep(on, one(1))
    keep(on, one(2, principal="prin_2"))
    await on.close()
    async with database.write() as connection:
        swap = "update evidence set body = (select body from evidence where request = 'req_1') where request = 'req_2'"
        await connection.execute(text(swap))
    with pytest.raises(Unreadable, match="tampered"):
        await read_evidence(database, Seal([SECRET]), "req_2", reader="ann", reason="ticket 7")


async def test_nothing_is_decrypted_when_the_reading_cannot_be_written_down(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = writer_of(database)
    keep(on, one())
    await on.close()
    async with database.write() as connection:
        await connection.execute(text("drop table evidence_reading"))

    class Watched(Seal):
        def open(self, *arguments: Any) -> Any:
            raise AssertionError("decrypted all the same")

    with pytest.raises(Exception, match="evidence_reading"):
        await read_evidence(database, Watched([SECRET]), "req_1", reader="ann", reason="ticket 7")


@pytest.mark.parametrize(("reader", "reason"), [("", "why"), ("ann", " "), ("ann", "x" * 257), ("a\nb", "why")])
async def test_a_reader_or_reason_that_says_nothing_reads_nothing(sqlite: Database, reader: str, reason: str) -> None:
    with pytest.raises(read.BadReading):
        await read_evidence(sqlite, Seal([SECRET]), "req_1", reader=reader, reason=reason)


async def test_expired_evidence_is_hidden_at_once_and_deleted_in_batches(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    on, now_ms = writer_of(database, days=1), clock.now_ms()
    for number in range(8):
        keep(on, one(number)._replace(at_ms=now_ms - DAY_MS))
    keep(on, one(8))
    await on.close()
    assert await read_evidence(database, Seal([SECRET]), "req_0", reader="ann", reason="ticket 7") is None
    async with database.read() as connection:
        rows = await evidence.listed(connection, now_ms=clock.now_ms(), since_ms=0, principal=None, most=100)
    assert [row.request for row in rows] == ["req_8"]
    stop = asyncio.Event()
    task = asyncio.create_task(retention.run_retention(database_url, stop))
    await eventually(lambda: single(database), what="the retention's round")
    stop.set()
    await asyncio.wait_for(task, 30)
    assert REGISTRY.get_sample_value("catflap_retention_last_round_timestamp_seconds")


async def single(database: Database) -> bool:
    return await count(database, "evidence") == 1


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


async def test_encryption_happens_off_the_event_loop(sqlite: Database) -> None:
    threads = set()

    class Watched(Seal):
        def close(self, request: str, principal: str, content: Content) -> bytes:
            threads.add(threading.current_thread())
            return super().close(request, principal, content)

    async with writing(Writer(sqlite, Watched([SECRET]), days=1)) as on:
        keep(on, one())
        await eventually(lambda: single(sqlite))
    assert threads
    assert threading.current_thread() not in threads


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
        await eventually(lambda: single(database))
        await asyncio.to_thread(postgres_server.stop)
        try:
            for number in range(1, 6):
                keep(on, one(number))
            on.gave("prin_1", words_of(b"k", "prin_1"), 5)
            await eventually(lambda: (REGISTRY.get_sample_value("catflap_evidence_errors_total") or 0.0) > before)
        finally:
            await asyncio.to_thread(postgres_server.start)
        await eventually(lambda: six(database), within_s=20)
    assert await count(database, "canary") == 1
    await database.close()


async def six(database: Database) -> bool:
    return await count(database, "evidence") == 6
