"""How principals are regarded, by hand: from the next request on, with an author and a reason, whatever Redis loses."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from redis.asyncio import Redis
from sqlalchemy import select
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from gateway.admin.app import create
from gateway.commands import principal as command
from gateway.core.caller import Caller, Regard
from gateway.core.facts import State
from gateway.core.ids import partition_of
from gateway.identity import regard
from gateway.identity.directory import Directory
from gateway.identity.issue import IssuedKey, issue_key
from gateway.identity.issuers import Identity
from gateway.identity.loads import entry_of_token
from gateway.identity.names import BadName
from gateway.identity.regard import BadRegard, Done, contain, regard_as, release, set_never_contain, standing
from gateway.quota.client import connect_redis
from gateway.quota.keys import epoch_key
from gateway.storage import directory
from gateway.storage.database import Database, connect
from gateway.storage.tables import regard_change
from gateway.telemetry import clock
from tests.support.databases import PEPPER
from tests.support.redis import RedisServer

PARTITIONS = 64
NORMAL = msgspec.to_builtins(Regard())
decode = msgspec.json.Decoder(Regard).decode
TOKEN = "the admin token of these tests, made up"
BY: dict[str, Any] = {"author": "ann", "reason": "a scraper"}


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = connect_redis(redis_server.url, timeout_s=5)
    yield client
    await client.aclose()


def directory_of(database: Database) -> Directory:
    return Directory(database, PEPPER, cache_s=60, cache_size=10, timeout_s=5)


async def issued(database: Database, name: str = "mallory", organisation: str = "acme") -> IssuedKey:
    return await issue_key(database, PEPPER, organisation=organisation, project="web", principal=name, plan="free")


async def epoch_of(redis: Redis, organisation: str) -> int:
    return int(await redis.get(epoch_key(partition_of(organisation, PARTITIONS), organisation)) or 0)


async def caller(gateway: Directory, redis: Redis, key: IssuedKey) -> Caller:
    """The caller of the next request, as admission with its epoch gives it."""
    return (await gateway.refresh(key.token, await epoch_of(redis, key.record.organisation))).caller


async def changes_of(database: Database) -> list[dict[str, Any]]:
    async with database.read() as connection:
        rows = await connection.execute(select(regard_change).order_by(regard_change.c.number))
        return [dict(row) for row in rows.mappings()]


async def test_a_containment_and_a_release_hold_from_the_next_request_on(database: Database, redis: Redis) -> None:
    key = await issued(database)
    gateway = directory_of(database)
    before = await caller(gateway, redis, key)
    assert before.regard == Regard()
    assert 0 < before.created_at_ms <= clock.now_ms()
    who = key.record.principal
    done = await contain(database, redis, PARTITIONS, who, **BY, cluster="ring-1")
    became = Regard(state="contained", cluster="ring-1")
    assert done == Done(
        principal=who, organisation=key.record.organisation, was=Regard(), regard=became, changed=True, told=True
    )
    assert (await caller(gateway, redis, key)).regard == became
    assert await release(database, redis, PARTITIONS, who, author="ben", reason="a mistake")
    assert (await caller(gateway, redis, key)).regard == Regard(cluster="ring-1")
    told = await standing(database, who)
    assert told is not None
    assert told.state == "normal"
    assert [(each.author, each.reason, each.was.state, each.became.state) for each in told.changes] == [
        ("ben", "a mistake", "contained", "normal"),
        ("ann", "a scraper", "normal", "contained"),
    ]


async def test_a_containment_survives_a_redis_that_lost_everything(database: Database, redis: Redis) -> None:
    key = await issued(database)
    gateway = directory_of(database)
    await contain(database, redis, PARTITIONS, key.record.principal, **BY)
    assert (await caller(gateway, redis, key)).regard.state == "contained"
    await redis.flushall()
    assert (await caller(gateway, redis, key)).regard.state == "contained"
    assert (await caller(directory_of(database), redis, key)).regard.state == "contained"


async def test_the_principal_of_a_json_web_token_is_regarded_like_that_of_a_key(
    database: Database, redis: Redis
) -> None:
    key = await issued(database)
    await regard_as(database, redis, PARTITIONS, key.record.principal, "watch", **BY, score=2.5)
    async with database.read() as connection:
        rows = await directory.find_principal_and_limits(connection, *directory.identified(key.record.principal))
    identity = Identity("corp", "acme", "web", "mallory", kind="person", plan="free")
    found = entry_of_token(identity, rows, None, 0.0).caller
    assert found.regard == Regard(state="watch", score=2.5)
    assert found.created_at_ms == rows[0]["principal_created_at_ms"]


async def test_a_containment_for_a_time_ends_by_itself_on_every_gateway(
    database: Database, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await issued(database)
    who = key.record.principal
    monkeypatch.setattr(clock, "now_ms", lambda: 1_000_000)
    await contain(database, redis, PARTITIONS, who, **BY, for_ms=60_000)
    found = (await caller(directory_of(database), redis, key)).regard
    assert found.until_ms == 1_060_000
    assert (found.state_at(1_059_999), found.state_at(1_060_000)) == ("contained", "normal")
    assert [one.id for one in await regard.list_regarded(database, state="contained")] == [who]
    monkeypatch.setattr(clock, "now_ms", lambda: 1_060_000)
    assert await regard.list_regarded(database, state="contained") == []
    assert await regard.list_regarded(database) == []
    assert [one.state for one in await regard.list_regarded(database, state="normal")] == ["normal"]
    told = await standing(database, who)
    assert told is not None
    assert (told.state, told.regard.state) == ("normal", "contained")


async def test_what_is_so_already_is_not_written_again_but_the_gateways_are_told_again(
    database: Database, redis: Redis
) -> None:
    key = await issued(database)
    who = key.record.principal
    await contain(database, redis, PARTITIONS, who, **BY)
    before = await epoch_of(redis, key.record.organisation)
    again = await contain(database, redis, PARTITIONS, who, author="ben", reason="again")
    assert again is not None
    assert not again.changed
    assert await epoch_of(redis, key.record.organisation) != before
    assert len(await changes_of(database)) == 1


async def test_changes_at_the_same_time_are_each_made_of_what_the_one_before_left(
    database: Database, redis: Redis
) -> None:
    who = (await issued(database)).record.principal
    states: tuple[State, ...] = ("watch", "suspicious", "contained", "blocked")
    await asyncio.gather(
        *(regard_as(database, redis, PARTITIONS, who, state, author="ann", reason=state) for state in states)
    )
    found = await changes_of(database)
    assert len(found) == 4
    was, became = ([decode(row[name]) for row in found] for name in ("was", "became"))
    assert was == [Regard(), *became[:-1]]


async def test_who_is_never_contained_is_released_and_cannot_be_contained(database: Database, redis: Redis) -> None:
    key = await issued(database)
    who = key.record.principal
    await contain(database, redis, PARTITIONS, who, **BY, for_ms=60_000)
    done = await set_never_contain(database, redis, PARTITIONS, who, True, author="ann", reason="our own monitor")
    assert done is not None
    assert done.regard == Regard(never_contain=True)
    with pytest.raises(BadRegard, match="never-contain list: take it off"):
        await contain(database, redis, PARTITIONS, who, **BY)
    assert (await caller(directory_of(database), redis, key)).regard == Regard(never_contain=True)
    await regard_as(database, redis, PARTITIONS, who, "suspicious", **BY)
    assert [one.id for one in await regard.list_regarded(database)] == [who]
    await set_never_contain(database, redis, PARTITIONS, who, False, author="ann", reason="retired")
    assert await contain(database, redis, PARTITIONS, who, **BY)
    assert len(await changes_of(database)) == 5


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"reason": " "}, "say why"),
        ({"reason": "x" * 257}, "1 to 256"),
        ({"reason": "a\0b"}, "control characters"),
        ({"author": ""}, "author must not be empty"),
        ({"for_ms": 0}, "1 second to 10 years"),
        ({"for_ms": 10**15}, "1 second to 10 years"),
        ({"cluster": "x" * 65}, "64 characters"),
        ({"cluster": "a\nb"}, "control characters"),
    ],
)
async def test_what_cannot_be_written_is_refused_with_a_sentence_and_changes_nothing(
    sqlite: Database, redis: Redis, values: dict[str, Any], sentence: str
) -> None:
    who = (await issued(sqlite)).record.principal
    with pytest.raises((BadRegard, BadName), match=sentence):
        await contain(sqlite, redis, PARTITIONS, who, **{**BY, **values})
    assert await changes_of(sqlite) == []
    assert await contain(sqlite, redis, PARTITIONS, "prin_none", **BY) is None


async def test_those_who_are_not_regarded_as_usual_are_listed_by_state_and_cluster_page_by_page(
    database: Database, redis: Redis
) -> None:
    people = [(await issued(database, f"p{number}")).record.principal for number in range(5)]
    for who in people[:3]:
        await contain(database, redis, PARTITIONS, who, **BY, cluster="ring-1")
    await regard_as(database, redis, PARTITIONS, people[3], "watch", author="ben", reason="odd", cluster="ring-2")
    await release(database, redis, PARTITIONS, people[0], author="ann", reason="no proof")
    listed = await regard.list_regarded(database)
    assert {one.id: (one.state, one.reason, one.author) for one in listed} == {
        people[1]: ("contained", "a scraper", "ann"),
        people[2]: ("contained", "a scraper", "ann"),
        people[3]: ("watch", "odd", "ben"),
    }
    assert {one.id for one in await regard.list_regarded(database, cluster="ring-1")} == set(people[:3])
    assert [one.id for one in await regard.list_regarded(database, state="watch", cluster="ring-1")] == []
    first = await regard.list_regarded(database, limit=2)
    rest = await regard.list_regarded(database, limit=2, after=first[-1].id)
    assert [*first, *rest] == listed


# -- the commands


app = typer.Typer()
app.add_typer(command.app, name="principal")


def catflap(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["principal", *arguments])


@pytest.fixture
def machine(sqlite_url: str, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database and a Redis, the environment that says so, and the id of a principal."""
    monkeypatch.setenv("CATFLAP_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("CATFLAP_REDIS_URL", redis_server.url)
    monkeypatch.setenv("CATFLAP_DATA_DIR", str(tmp_path / "var"))

    async def made() -> str:
        database = connect(sqlite_url)
        key = await issued(database)
        await database.close()
        return key.record.principal

    return asyncio.run(made())


def test_a_principal_is_contained_listed_shown_and_released_by_command(machine: str) -> None:
    said = catflap("contain", machine, "--reason", "a scraper", "--for", "24h", "--author", "ann", "--cluster", "r1")
    assert said.exit_code == 0, said.stderr
    assert said.stdout.startswith(f"{machine} is contained until 2")
    [listed] = json.loads(catflap("list", "--state", "contained", "--json").stdout)
    assert (listed["id"], listed["state"], listed["reason"], listed["author"], listed["cluster"]) == (
        machine, "contained", "a scraper", "ann", "r1")  # fmt: skip
    text = catflap("list", "--cluster", "r1").stdout
    assert text.splitlines()[0].split() == [
        "PRINCIPAL", "NAME", "ORGANISATION", "STATE", "SCORE", "CLUSTER", "UNTIL", "REASON"]  # fmt: skip
    assert "a scraper (ann)" in text
    shown = json.loads(catflap("show", machine, "--json").stdout)
    assert shown["state"] == "contained"
    assert shown["regard"]["cluster"] == "r1"
    assert [change["reason"] for change in shown["changes"]] == ["a scraper"]
    assert "by ann: a scraper" in catflap("show", machine).stdout
    released = json.loads(catflap("release", machine, "--json").stdout)
    assert (released["regard"]["state"], released["changed"], released["told"]) == ("normal", True, True)
    assert catflap("release", machine).stdout == f"{machine} is normal, of cluster r1 already\n"
    assert catflap("list", "--state", "contained").stdout == "There are none.\n"
    assert json.loads(catflap("regard", machine, "watch", "--reason", "odd", "--json").stdout)["regard"]["state"] == (
        "watch"
    )


def test_the_never_contain_list_is_kept_by_command_and_wins(machine: str) -> None:
    assert "on the never-contain list" in catflap("never-contain", machine).stdout
    refused = catflap("contain", machine, "--reason", "a scraper")
    assert refused.exit_code == 2
    assert "take it off first" in refused.stderr
    assert catflap("never-contain", machine, "--off", "--json").exit_code == 0
    assert catflap("contain", machine, "--reason", "a scraper").exit_code == 0


def test_a_principal_that_does_not_exist_or_a_bad_option_is_told_in_a_sentence(machine: str) -> None:
    unknown = catflap("contain", "prin_none", "--reason", "x")
    assert (unknown.exit_code, unknown.stderr) == (1, "There is no principal 'prin_none'.\n")
    assert catflap("contain", machine).exit_code == 2
    assert catflap("contain", machine, "--reason", "x", "--for", "soon").exit_code == 2
    assert catflap("contain", machine, "--reason", " ").exit_code == 2
    assert catflap("list", "--state", "odd").exit_code == 2


def test_without_redis_the_containment_is_kept_and_the_command_says_who_was_not_told(
    machine: str, redis_server: RedisServer
) -> None:
    redis_server.stop()
    said = catflap("contain", machine, "--reason", "a scraper")
    assert said.exit_code == 0
    assert "Redis could not be reached to tell the gateways" in said.stderr
    assert json.loads(catflap("list", "--json").stdout)[0]["state"] == "contained"


# -- the admin API


@pytest.fixture
def api(machine: str, sqlite_url: str, redis_server: RedisServer, tmp_path: Path) -> Iterator[TestClient]:
    (tmp_path / "plans").mkdir()
    plane = create(
        sqlite_url,
        redis_server.url,
        token=TOKEN.encode(),
        pepper=PEPPER,
        partitions=64,
        plans=tmp_path / "plans",
        evidence_secrets=("a secret of the tests",),
    )
    with TestClient(plane, headers={"authorization": f"Bearer {TOKEN}"}) as client:
        yield client


def test_the_admin_api_contains_lists_shows_and_releases(api: TestClient, machine: str) -> None:
    path = f"/api/v1/principals/{machine}"
    done = api.post(f"{path}/contain", json={"reason": "a scraper", "for_s": 60})
    assert done.status_code == 200, done.text
    assert (done.json()["regard"]["state"], done.json()["told"]) == ("contained", True)
    listed = api.get("/api/v1/principals", params={"state": "contained"}).json()
    assert [(one["id"], one["author"]) for one in listed["data"]] == [(machine, "admin token")]
    assert not listed["has_more"]
    assert api.get(path).json()["regard"]["state"] == "contained"
    assert api.post(f"{path}/release", json={"reason": "no proof", "author": "ben"}).json()["regard"] == NORMAL
    on = api.put(f"{path}/never-contain", json={"on": True, "reason": "ours"})
    assert on.json()["regard"] == {**NORMAL, "never_contain": True}
    refused = api.put(f"{path}/regard", json={"state": "contained", "reason": "x"})
    assert refused.status_code == 400
    assert "never-contain list" in refused.json()["error"]["message"]
    assert api.put(f"{path}/regard", json={"state": "watch", "reason": "odd", "score": 1.5}).status_code == 200
    shown = api.get(f"{path}/regard").json()
    assert (shown["state"], shown["regard"]["score"], len(shown["changes"])) == ("watch", 1.5, 4)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "principals/prin_none/contain", {"reason": "x"}, 404),
        ("GET", "principals/prin_none/regard", None, 404),
        ("POST", "principals/{id}/contain", {}, 400),
        ("POST", "principals/{id}/contain", {"reason": "x", "for_s": 0}, 400),
        ("PUT", "principals/{id}/regard", {"state": "odd", "reason": "x"}, 400),
        ("PUT", "principals/{id}/regard", {"state": "watch", "reason": "x", "score": -1}, 400),
        ("GET", "principals?state=odd", None, 400),
        ("GET", "principals?limit=0", None, 400),
    ],
)
def test_what_the_admin_api_cannot_do_it_says_in_the_one_shape(
    api: TestClient, machine: str, method: str, path: str, body: object, status: int
) -> None:
    answer = api.request(method, "/api/v1/" + path.replace("{id}", machine), json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]
