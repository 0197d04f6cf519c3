"""Evidence and canaries: written behind requests' backs, unreadable at rest, gone in time, and every reading told."""

import asyncio
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import make_url, text

from gateway.canary.phrase import words_of
from gateway.evidence import read
from gateway.evidence.content import Content
from gateway.evidence.read import read_evidence
from gateway.evidence.seal import Seal, Unreadable
from gateway.evidence.writer import DAY_MS, Evidence, Writer
from gateway.storage import canaries, evidence
from gateway.storage.canaries import Given
from gateway.storage.database import Database, sqlite_file
from gateway.storage.ledger import digest_of
from gateway.storage.tables import erased_principal
from gateway.telemetry import clock
from gateway.workers import retention
from tests.support.eventually import eventually
from tests.support.evidence import OLDER, PLAIN, SECRET, count, holds, keep, one, writer_of, writing
from tests.support.postgres import postgres_binaries


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
    await eventually(lambda: holds(database, 1), what="the retention's round")
    stop.set()
    await asyncio.wait_for(task, 30)
    assert REGISTRY.get_sample_value("catflap_retention_last_round_timestamp_seconds")


async def test_encryption_happens_off_the_event_loop(sqlite: Database) -> None:
    threads = set()

    class Watched(Seal):
        def close(self, request: str, principal: str, content: Content) -> bytes:
            threads.add(threading.current_thread())
            return super().close(request, principal, content)

    async with writing(Writer(sqlite, Watched([SECRET]), days=1)) as on:
        keep(on, one())
        await eventually(lambda: holds(sqlite, 1))
    assert threads
    assert threading.current_thread() not in threads
