"""The ruleset in force: it follows the directory, then the revisions, in every process; whatever breaks changes nothing
and is said once."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from gateway.policy.ruleset import Ruleset
from gateway.quota.client import connect_redis
from gateway.rules import inforce as module
from gateway.rules.directory import mark_of
from gateway.rules.inforce import InForce
from gateway.rules.load import Loaded, load_examined
from gateway.rules.revisions import apply, rollback, switch
from gateway.storage.database import Database, connect
from gateway.storage.policies import Files, files_of
from tests.support.eventually import eventually
from tests.support.policies import flags_of, in_force, policy_text, write_policy
from tests.support.redis import RedisServer
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_sentinel import SentinelSet

NEVER_S = 3600.0
BESIDE = 60
"""Policies that lie beside the one that a test is about: loading them takes a while."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory of policies with one that flags `seen`."""
    write_policy(tmp_path / "policies")
    return tmp_path / "policies"


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = connect_redis(redis_server.url, timeout_s=2)
    yield client
    await client.aclose()


def files(**more: str) -> Files:
    return {"rules/cat.yaml": policy_text(**more)}


def problems(lines: list[Any], part: str = "rules") -> list[Any]:
    return [line for line in lines if line["event"] == "policy_problem" and line["part"] == part]


def metric(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def text_with(match: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "rules" / "cat.yaml").write_text(policy_text(match=match))

    return write


def unfinished(folder: Path) -> None:
    (folder / "rules" / "cat.yaml").write_text("apiVersion: catflap/v1\nkind: Policy\nspec: [\n")


def emptied(folder: Path) -> None:
    shutil.rmtree(folder / "rules")
    (folder / "rules").mkdir()


def vanished(folder: Path) -> None:
    shutil.rmtree(folder)


def megabyte(folder: Path) -> None:
    (folder / "rules" / "cat.yaml").write_text(policy_text() + "# no more than a comment\n" * 42_000)


def untrue(folder: Path) -> None:
    path = folder / "rules" / "cat.yaml"
    path.write_text(policy_text().replace("matched: false", "matched: true, flags: [other]"))


NESTED = "principal.tags.exists(a, principal.scopes.exists(b, a == b))"
HOSTILE = 'request.user_text.matches("(((x{1,30}){1,30}){1,30}){1,30}y")'
BREAKING: list[tuple[str, Callable[[Path], None], str, bool]] = [
    ("a broken file", unfinished, "rules/cat.yaml", True),
    ("an empty directory", emptied, "rules", False),
    ("a vanished directory", vanished, "rules", False),
    ("a hostile regex", text_with(HOSTILE), "rules/cat.yaml", True),
    ("a rule of a megabyte", megabyte, "rules/cat.yaml", True),
    ("a nested comprehension", text_with(NESTED), "rules/cat.yaml", True),
    ("an example that fails", untrue, "rules/cat.yaml", True),
]


class Turns:
    """How often the event loop came round while a ruleset was being loaded on a thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.loads = 0, list[int]()
        monkeypatch.setattr(module, "load_examined", self._load)

    def _load(self, files: Files, _: Loaded) -> Ruleset:
        began = self.now
        try:
            return load_examined(files)  # all of them anew
        finally:
            self.loads.append(self.now - began)

    async def count(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.now += 1


@pytest.mark.parametrize(
    ("breaking", "file", "has_line"), [case[1:] for case in BREAKING], ids=[c[0] for c in BREAKING]
)
async def test_what_does_not_load_is_told_once_with_its_place_and_changes_nothing(
    sqlite: Database, folder: Path, tmp_path: Path, lines: list[Any], monkeypatch: pytest.MonkeyPatch,
    breaking: Callable[[Path], None], file: str, has_line: bool,
) -> None:  # fmt: skip
    for number in range(BESIDE):
        write_policy(folder, f"beside-{number}", flag="seen")
    failures = metric("catflap_policy_load_failures_total", part="rules") or 0
    async with in_force(sqlite, folder, None, tmp_path / "var") as held:
        running = held.ruleset
        assert len(running.rules) == BESIDE + 1
        turns = Turns(monkeypatch)
        counting = asyncio.create_task(turns.count())
        breaking(folder)
        await eventually(lambda: held.troubles.of("rules"), within_s=20)
        counting.cancel()
        await asyncio.sleep(0.2)  # ten more looks at it
        assert held.ruleset is running
        assert all(turns > 20 for turns in turns.loads), "requests are served while rules are compiled"
        (line,) = problems(lines)
        assert line["file"].endswith(file)
        assert (line["line"] > 0) is has_line
        assert "cat" not in str({**line, "file": "", "see": "", "event": "", "reason": ""}).lower()
        assert metric("catflap_policy_ok") == 0
        assert metric("catflap_policy_load_failures_total", part="rules") == failures + 1
        write_policy(folder, flag="mended")
        await eventually(lambda: "mended" in flags_of(held), within_s=20)
        assert held.troubles.ok
        assert metric("catflap_policy_ok") == 1
        assert metric("catflap_policy_version", version=held.ruleset.version) == 1
        assert metric("catflap_policy_version", version=running.version) == 0
        assert [line["part"] for line in lines if line["event"] == "policy_problem_over"] == ["rules"]


async def test_a_large_ruleset_is_compiled_beside_the_event_loop(
    sqlite: Database, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_force(sqlite, folder, None, tmp_path / "var") as held:
        turns = Turns(monkeypatch)
        counting = asyncio.create_task(turns.count())
        for number in range(100):
            write_policy(folder, f"beside-{number}", flag=f"flag-{number}")
        await eventually(lambda: len(held.ruleset.rules) == 101, within_s=30)
        counting.cancel()
        assert min(turns.loads) > 20


async def test_a_gateway_that_starts_on_a_broken_directory_takes_what_it_had_last(
    sqlite: Database, folder: Path, tmp_path: Path, lines: list[Any]
) -> None:
    async with in_force(sqlite, folder, None, tmp_path / "var") as before:
        running = before.ruleset.version
    unfinished(folder)
    async with in_force(sqlite, folder, None, tmp_path / "var") as held:
        assert held.ruleset.version == running
        assert not held.troubles.ok
        assert [line["version"] for line in lines if line["event"] == "policies_last_good"] == [running]
        assert (tmp_path / "var" / "policies-last-good.json").stat().st_mode & 0o777 == 0o600
        write_policy(folder, flag="mended")
        await eventually(lambda: flags_of(held) == {"mended"})


@pytest.mark.parametrize("kept", [None, b"{", b'{"version":"x","containment":true,"files":{"a.yaml":"a: ["}}'])
async def test_a_gateway_that_never_had_any_starts_without_rules_and_says_so(
    sqlite: Database, tmp_path: Path, lines: list[Any], kept: bytes | None
) -> None:
    if kept is not None:
        (tmp_path / "policies-last-good.json").write_bytes(kept)
    async with in_force(sqlite, tmp_path / "nowhere", None, tmp_path) as held:
        assert held.ruleset.policies == ()
        assert held.containment
        assert not held.troubles.ok
        assert [line["event"] for line in lines].count("policies_none") == 1
        assert len(problems(lines, "last_good")) == (kept is not None)


async def test_without_a_database_a_gateway_starts_on_what_it_had_last_with_the_switch_as_it_was(
    sqlite_url: str, folder: Path, tmp_path: Path, redis: Redis, lines: list[Any]
) -> None:
    database = connect(sqlite_url)
    await apply(database, redis, files(flag="applied"), author="ann", message="first")
    await switch(database, redis, False, author="ann")
    async with in_force(database, folder, None, tmp_path / "var", poll_s=0.05) as held:
        assert flags_of(held) == {"applied"}
        assert not held.containment
        file = tmp_path / "catflap.db"
        file.rename(tmp_path / "away.db")
        await eventually(lambda: problems(lines, "database"))
        async with in_force(database, folder, None, tmp_path / "var", poll_s=0.05) as again:
            assert flags_of(again) == {"applied"}
            assert not again.containment
            assert not again.troubles.ok
            await asyncio.sleep(0.2)
            assert flags_of(held) == {"applied"}
            (tmp_path / "away.db").rename(file)
            await switch(database, redis, True, author="ann")
            await eventually(lambda: all(each.containment for each in (held, again)))
            assert [held.troubles.of("database"), again.troubles.of("database")] == [None, None]
    assert len(problems(lines, "database")) == 2, "one line for each of the two, however often they asked"
    await database.close()


async def test_once_something_is_applied_the_directory_counts_no_more_until_it_is_gone_back_to(
    database: Database, folder: Path, tmp_path: Path, redis: Redis, redis_server: RedisServer
) -> None:
    async with in_force(database, folder, redis_server.url, tmp_path / "var", poll_s=NEVER_S) as held:
        assert flags_of(held) == {"seen"}
        assert (await apply(database, redis, files(flag="applied"), author="ann", message="first")).told
        await eventually(lambda: flags_of(held) == {"applied"})
        vanished(folder)
        await apply(database, redis, files(flag="second"), author="ann", message="second")
        await eventually(lambda: flags_of(held) == {"second"})
        assert held.troubles.ok, "nobody asks for the directory"
        await rollback(database, redis, None, author="ann")
        await eventually(lambda: flags_of(held) == {"applied"})
        await rollback(database, redis, None, author="ann")
        await eventually(lambda: held.troubles.of("rules"))
        assert flags_of(held) == {"applied"}
        write_policy(folder, flag="again")
        await eventually(lambda: flags_of(held) == {"again"})


async def test_the_switch_holds_at_once_through_apply_and_rollback_and_a_ruleset_that_does_not_load(
    database: Database, folder: Path, tmp_path: Path, redis: Redis, redis_server: RedisServer
) -> None:
    async with in_force(database, folder, redis_server.url, tmp_path / "var", poll_s=NEVER_S) as held:
        unfinished(folder)
        await eventually(lambda: held.troubles.of("rules"))
        assert metric("catflap_policy_containment") == 1
        await switch(database, redis, False, author="ann", message="stop")
        await eventually(lambda: not held.containment)
        assert metric("catflap_policy_containment") == 0
        await apply(database, redis, files(flag="applied"), author="ann", message="first")
        await eventually(lambda: flags_of(held) == {"applied"})
        await rollback(database, redis, 0, author="ann")
        write_policy(folder, flag="back")
        await eventually(lambda: flags_of(held) == {"back"})
        assert not held.containment
        await switch(database, redis, True, author="ann")
        await eventually(lambda: held.containment)


async def test_every_process_swaps_when_it_is_told_and_by_itself_where_it_is_not(
    database: Database, folder: Path, tmp_path: Path, redis: Redis, redis_server: RedisServer
) -> None:
    async with (
        in_force(database, folder, redis_server.url, tmp_path / "a", poll_s=NEVER_S) as one,
        in_force(database, folder, redis_server.url, tmp_path / "b", poll_s=NEVER_S) as two,
        in_force(database, folder, None, tmp_path / "c", poll_s=0.1) as alone,
    ):
        await apply(database, redis, files(flag="told"), author="ann", message="first")
        await eventually(lambda: all(flags_of(held) == {"told"} for held in (one, two, alone)))


async def test_with_redis_away_changes_come_by_asking_and_are_heard_again_when_it_is_back(
    sqlite: Database, folder: Path, tmp_path: Path, redis: Redis, redis_server: RedisServer, lines: list[Any]
) -> None:
    async with (
        in_force(sqlite, folder, redis_server.url, tmp_path / "a", poll_s=0.2) as asking,
        in_force(sqlite, folder, redis_server.url, tmp_path / "b", poll_s=NEVER_S) as hearing,
    ):
        redis_server.kill()
        await eventually(lambda: len(problems(lines, "redis")) == 2)
        assert not (await apply(sqlite, redis, files(flag="quiet"), author="ann", message="first")).told
        await eventually(lambda: flags_of(asking) == {"quiet"})
        assert asking.troubles.ok
        assert flags_of(hearing) == {"seen"}
        redis_server.start()
        await eventually(lambda: flags_of(hearing) == {"quiet"}, within_s=15, what="what was missed")
        await apply(sqlite, redis, files(flag="loud"), author="ann", message="second")
        await eventually(lambda: flags_of(hearing) == {"loud"})
    assert len(problems(lines, "redis")) == 2


async def heard_by_both(url: str, sqlite: Database, folder: Path, tmp_path: Path, outage: Callable[[], None]) -> None:
    """Two gateways hear of changes, and again after the outage; nobody asks the database."""
    client = connect_redis(url, timeout_s=2)

    async def told(flag: str) -> bool:
        return (await apply(sqlite, client, files(flag=flag), author="ann", message=flag)).told

    async with (
        in_force(sqlite, folder, url, tmp_path / "a", poll_s=NEVER_S) as one,
        in_force(sqlite, folder, url, tmp_path / "b", poll_s=NEVER_S) as two,
    ):

        def both_flag(flag: str) -> bool:
            return flags_of(one) == flags_of(two) == {flag}

        for flag in ("first", "second", "third"):
            assert await told(flag)
            await eventually(partial(both_flag, flag))
        await asyncio.to_thread(outage)
        await eventually(lambda: told("after"), within_s=15, what="telling")
        await eventually(lambda: flags_of(one) == flags_of(two) == {"after"}, within_s=15)
    await client.aclose()


async def test_gateways_hear_of_changes_on_a_cluster_with_one_of_its_masters_dead(
    redis_cluster: RedisCluster, sqlite: Database, folder: Path, tmp_path: Path
) -> None:
    await heard_by_both(redis_cluster.url, sqlite, folder, tmp_path, redis_cluster.masters[0].kill)


async def test_gateways_hear_of_changes_behind_a_sentinel_from_the_new_master_too(
    sentinel_set: SentinelSet, sqlite: Database, folder: Path, tmp_path: Path
) -> None:
    await heard_by_both(sentinel_set.url, sqlite, folder, tmp_path, sentinel_set.master.kill)


async def test_every_ruleset_that_comes_into_force_can_be_read_again_by_its_version(
    database: Database, folder: Path, tmp_path: Path
) -> None:
    async def archived(version: str) -> Files | None:
        async with database.read() as connection:
            return await files_of(connection, version)

    async with in_force(database, folder, None, tmp_path / "var") as held:
        first = held.ruleset.version
        await eventually(lambda: archived(first))
        write_policy(folder, flag="other")
        await eventually(lambda: flags_of(held) == {"other"})
        await eventually(lambda: archived(held.ruleset.version))
        assert await archived(first) == {"rules/cat.yaml": policy_text()}


async def test_a_data_directory_that_cannot_be_written_is_told_and_nothing_else(
    sqlite: Database, folder: Path, tmp_path: Path, lines: list[Any]
) -> None:
    (tmp_path / "var").write_text("a file")
    async with in_force(sqlite, folder, None, tmp_path / "var") as held:
        assert flags_of(held) == {"seen"}
        assert held.troubles.ok
    assert len(problems(lines, "last_good")) == 1


async def test_a_disk_that_hangs_holds_nothing_up_and_is_used_again_when_it_answers(
    sqlite: Database, folder: Path, tmp_path: Path, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, real = asyncio.Event(), mark_of
    loop, times = asyncio.get_running_loop(), list[bool]()

    def stuck(place: Path) -> Any:
        if not times:
            times.append(asyncio.run_coroutine_threadsafe(hanging.wait(), loop).result())
        return real(place)

    async with in_force(sqlite, folder, None, tmp_path / "var", timeout_s=0.2, poll_s=0.05) as held:
        monkeypatch.setattr(module, "mark_of", stuck)
        await eventually(lambda: held.troubles.of("rules"))
        await switch(sqlite, redis, False, author="ann")
        await eventually(lambda: not held.containment)
        assert flags_of(held) == {"seen"}
        hanging.set()
        await eventually(lambda: held.troubles.ok)
        write_policy(folder, flag="after")
        await eventually(lambda: flags_of(held) == {"after"})


async def test_an_error_that_nobody_thought_of_ends_nothing(
    sqlite: Database, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with in_force(sqlite, folder, None, tmp_path / "var") as held:
        with monkeypatch.context() as broken:
            broken.setattr(InForce, "_bring_directory", lambda *_: 1 / 0)
            await eventually(lambda: held.troubles.of("rules"))
        write_policy(folder, flag="after")
        await eventually(lambda: flags_of(held) == {"after"})
        assert held.troubles.ok
