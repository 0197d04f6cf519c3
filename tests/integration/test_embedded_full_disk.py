"""A disk that is full is told in one sentence with its folder, hangs nothing, and is over when there is room again."""

import asyncio
import os
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from gateway.embedded.problem import StartError
from gateway.embedded.redis import redis_service
from gateway.quota.client import connect_redis
from gateway.quota.keys import events_key
from gateway.settings import Settings
from gateway.storage.database import connect
from gateway.storage.migrate import migrate
from gateway.workers import ledger as ledger_room
from gateway.workers.budgets import Budgets
from gateway.workers.ledger import Ledger
from gateway.workers.streams import Streams
from tests.integration.embedded_fixtures import Hosted, need_triton, triton_hosted, until
from tests.integration.test_embedded_up import Up, private, refusal, up
from tests.integration.test_ledger import Lines
from tests.support.events import make_event
from tests.support.eventually import eventually
from tests.support.ledger import WatchedDatabase, append, booked
from tests.support.redis import RedisServer

SAID_S = 10.0
AGAIN_S = 15.0
ROOM = 48 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 48 MiB in memory."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        reason = f"nothing can be mounted here ({mounted.stderr.strip()}), so no disk can be filled"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all of its room with one file."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


def command(path: Path, *words: str) -> bytes:
    """One command to a Redis on this socket; its answer's first line."""
    request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SAID_S)
        connection.connect(str(path))
        connection.sendall(request.encode())
        return connection.makefile("rb").readline()


def test_a_redis_that_cannot_append_says_where_and_goes_on_by_itself(small: Path) -> None:
    settings = Settings(data_dir=small / "var")
    hosted = Hosted(redis_service(settings))
    hosted.start()
    try:
        pid, path = hosted.pid, settings.embedded_redis_socket()
        ballast = fill(small)
        began = time.monotonic()
        until(lambda: command(path, "SET", "k", "x" * 5000).startswith(b"-MISCONF"))
        assert hosted.heard("takes no more writes", began) < SAID_S
        (line,) = [line for _, line in hosted.said]
        assert str(small / "var" / "redis") in line
        assert "No space left on device" in line
        assert command(path, "GET", "k").startswith(b"$")  # reading goes on
        ballast.unlink()
        freed = time.monotonic()
        assert hosted.heard("Redis: goes on", freed) < SAID_S
        assert command(path, "SET", "k", "y") == b"+OK\r\n"
        assert (hosted.pid, hosted.supervisor.restarts) == (pid, 0)
    finally:
        hosted.stop()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_full_disk_is_said_by_catflap_up_which_serves_again_without_a_restart(small: Path) -> None:
    with up(private(small)) as running:
        running.wait_ready()
        children = running.children()
        assert running.serves()
        ballast = fill(small)
        began = time.monotonic()
        running.heard(f"MiB left under {small / 'var'}")
        until(lambda: not running.serves())  # each answer takes a write to Redis, which it cannot keep
        running.heard("takes no more writes")
        assert time.monotonic() - began < SAID_S
        answered = time.monotonic()
        assert not running.serves()
        assert time.monotonic() - answered < 5  # refused, not left waiting
        ballast.unlink()
        until(running.serves, within_s=AGAIN_S)
        running.heard("there is room again")
        assert running.children() == children
        assert usage_arrives(running)


def usage_arrives(running: Up) -> bool:
    """The ledger, whose database and log were on that disk, writes again."""
    database = Path(running.environment["CATFLAP_DATA_DIR"]) / "catflap.db"

    def rows() -> int:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            found: int = connection.execute("select count(*) from request_event").fetchone()[0]
        return found

    before = rows()
    assert running.serves()
    until(lambda: rows() > before)
    return True


async def test_a_ledger_whose_sqlite_has_no_room_waits_says_so_once_and_loses_nothing(
    small: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{small / 'catflap.db'}"
    migrate(url)
    lines = Lines()
    monkeypatch.setattr(ledger_room, "log", lines)
    database, redis = WatchedDatabase(connect(url)), connect_redis(redis_server.url, timeout_s=2)
    try:
        before, *events = [make_event(number) for number in range(1001)]
        stop = asyncio.Event()
        reader = Ledger(Streams(redis, 2), Budgets(redis), database, 2, block_ms=50, linger_s=0)
        ledger = asyncio.create_task(reader.run(stop))
        await append(redis, 0, [before])
        await asyncio.wait_for(database.holds(1), SAID_S)
        ballast = fill(small)
        await append(redis, 0, events[:500])
        await append(redis, 1, events[500:])
        await asyncio.wait_for(lines.spoke.wait(), SAID_S)
        database.tried.clear()
        await asyncio.wait_for(database.tried.wait(), SAID_S)  # again, and in vain
        assert await full(database)
        assert (await held(redis), await booked(database)) == (1000, {before.request: 15})
        assert lines.said == [("ledger_waits", {"dependency": "database", "error": "OperationalError"})]
        ballast.unlink()
        await asyncio.wait_for(database.holds(1001), AGAIN_S)
        await eventually(lambda: nothing_held(redis), what="the end of what Redis holds")
        stop.set()
        await ledger
        assert await booked(database) == {event.request: 15 for event in (before, *events)}
        assert [line for line, _ in lines.said] == ["ledger_waits", "ledger_goes_on"]
    finally:
        await redis.aclose()
        await database.close()


async def full(database: WatchedDatabase) -> bool:
    """Whether it is SQLite's own "disk is full" that is met, and nothing else."""
    with pytest.raises(OperationalError) as raised:
        async with database.write() as connection:
            await connection.execute(text("create table ballast as select randomblob(1000000) as bytes"))
    return "database or disk is full" in str(raised.value)


async def held(redis: Redis) -> int:
    """Events that Redis keeps."""
    return sum([await redis.xlen(events_key(partition)) for partition in range(2)])


async def nothing_held(redis: Redis) -> bool:
    return await held(redis) == 0


def test_a_triton_that_cannot_be_put_together_names_its_folder(small: Path) -> None:
    need_triton()
    fill(small)
    with pytest.raises(StartError, match=rf"Triton's folder cannot be put together. The disk under {small}.* is full"):
        triton_hosted(small / "var")


def test_a_start_on_a_full_disk_is_refused_in_one_sentence(small: Path) -> None:
    environment = private(small)
    fill(small)
    sentence = refusal(environment)
    assert sentence.startswith("The disk under ") or "cannot be used. The disk under" in sentence
    assert str(small) in sentence
    assert "CATFLAP_DATA_DIR" in sentence
