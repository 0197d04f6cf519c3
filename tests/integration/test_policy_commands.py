"""`catflap policy` as a person or a script calls it, and the same changes through the admin API."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from redis.asyncio import Redis
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from gateway.admin.app import create
from gateway.commands import policy, work
from gateway.core.facts import Facts, PrincipalFacts, Roll
from gateway.policy.record import encode, record_of
from gateway.policy.ruleset import no_rules
from gateway.quota.client import connect_redis
from gateway.rules.channel import CHANNEL
from gateway.rules.revisions import BadChange, apply, rollback
from gateway.settings import Settings
from gateway.storage.database import Database, connect
from gateway.storage.ledger import book
from gateway.storage.policies import revisions
from gateway.telemetry import clock
from tests.support.databases import PEPPER
from tests.support.events import make_event
from tests.support.policies import policy_text, write_policy
from tests.support.redis import RedisServer

app = typer.Typer()
app.add_typer(policy.app, name="policy")
app.command()(work.migrate)
TOKEN = "the admin token of these tests, made up"


def catflap(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["policy", *arguments])


def told(*arguments: str, code: int = 0) -> Any:
    """The one line of JSON that a command prints."""
    result = catflap(*arguments, "--json")
    assert result.exit_code == code, result.output
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def prepared(folder: Path, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of policies with one of them, and the environment that says so."""
    write_policy(folder / "policies", flag="first")
    monkeypatch.setenv("CATFLAP_DATA_DIR", str(folder / "var"))
    monkeypatch.setenv("CATFLAP_POLICIES", str(folder / "policies"))
    monkeypatch.setenv("CATFLAP_DATABASE_URL", database_url)
    monkeypatch.setenv("CATFLAP_REDIS_URL", redis_url)
    return folder


@pytest.fixture
def machine(tmp_path: Path, database_url: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Once with each kind of database."""
    return prepared(tmp_path, database_url, redis_server.url, monkeypatch)


@pytest.fixture
def alone(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With SQLite, and no Redis: for what needs neither."""
    return prepared(tmp_path, sqlite_url, f"unix://{tmp_path / 'no.sock'}", monkeypatch)


def applied(machine: Path, flag: str, *more: str) -> Any:
    write_policy(machine / "policies", flag=flag)
    return told("apply", "--message", f"because of {flag}", "--author", "ann", *more)


def test_check_says_every_finding_with_file_and_line_and_fails_on_errors(alone: Path) -> None:
    assert told("check")["findings"] == []
    write_policy(alone / "policies", "dog", match="principal.stat == 1")
    (alone / "policies" / "rules" / "torn.yaml").write_text("kind: [")
    found = told("check", code=1)
    assert [(each["file"], each["level"]) for each in found["findings"]] == [
        ("rules/dog.yaml", "error"),
        ("rules/torn.yaml", "error"),
    ]
    assert all(each["line"] > 0 for each in found["findings"])
    text = catflap("check")
    assert "rules/dog.yaml, line 8: error: " in text.stdout
    assert "1 policies, 2 examples run: 2 errors, no warnings" in text.stdout


def test_check_of_no_directory_and_of_an_empty_one_fails(alone: Path, tmp_path: Path) -> None:
    assert "there is no such directory" in told("check", str(tmp_path / "nowhere"), code=1)["findings"][0]["sentence"]
    (tmp_path / "empty" / "rules").mkdir(parents=True)
    assert "there is no policy file" in told("check", str(tmp_path / "empty"), code=1)["findings"][0]["sentence"]


def test_warnings_fail_only_where_they_must(alone: Path) -> None:
    write_policy(alone / "policies", match='principal.state == "contained" && true')
    assert [each["level"] for each in told("check")["findings"]] == ["warning"]
    told("check", "--strict", code=1)
    told("test")


def test_test_runs_the_examples_and_counts_them(alone: Path) -> None:
    assert told("test") == {**told("check"), "policies": 1, "examples": 2, "findings": []}
    path = alone / "policies" / "rules" / "cat.yaml"
    path.write_text(path.read_text().replace("flags: [first]", "flags: [other]"))
    (found,) = told("test", code=1)["findings"]
    assert "this example fails: flags is ('first',)" in found["sentence"]


def test_apply_makes_a_revision_and_says_so_when_nothing_changes(machine: Path) -> None:
    first = applied(machine, "first")
    assert first["changed"]
    assert first["told"]
    assert (first["revision"]["number"], first["revision"]["author"]) == (1, "ann")
    again = catflap("apply", "--message", "again")
    assert again.stdout.startswith("Nothing changed; revision 1: ruleset ")
    assert applied(machine, "second")["revision"]["number"] == 2


def test_apply_refuses_what_has_an_error_and_changes_nothing(machine: Path) -> None:
    applied(machine, "first")
    write_policy(machine / "policies", match="principal.stat == 1")
    refused = catflap("apply", "--message", "broken")
    assert refused.exit_code == 1
    assert "rules/cat.yaml, line 8: error: " in refused.stderr
    assert "are not applied" in refused.stderr
    assert told("list")["revision"]["number"] == 1
    assert not told("list")["directory"]["loads"]
    assert [rule["id"] for rule in told("list")["rules"]] == ["cat"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("apply",),
        ("apply", "--message", " "),
        ("apply", "--message", "x" * 300),
        ("apply", "--message", "two\nlines"),
        ("apply", "--message", "x", "--author", "a\x1bb"),
        ("apply", "--message", "x", "--repo", "."),
        ("off",),
        ("on", "--message", "x"),
        ("diff", "--against", "yesterday"),
        ("diff", "--last", "soon"),
        ("rollback", "--to", "-1"),
    ],
)
def test_bad_usage_is_told_as_such(alone: Path, arguments: tuple[str, ...]) -> None:
    assert catflap(*arguments).exit_code == 2


def test_a_git_revision_is_applied_as_it_was_committed(machine: Path) -> None:
    who = ["git", "-C", str(machine), "-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    for arguments in (["init", "-q"], ["add", "policies"], ["commit", "-qm", "one"]):
        subprocess.run([*who, *arguments], check=True)
    write_policy(machine / "policies", match="not committed")
    change = told("apply", "--git", "HEAD", "--message", "from git")
    assert change["revision"]["source"].startswith("git ")
    again = told("apply", "policies", "--repo", str(machine), "--git", "HEAD", "--message", "from git")
    assert not again["changed"]
    assert catflap("apply", "--git", "nothing", "--message", "x").exit_code == 1


def test_rollback_goes_further_back_each_time_and_makes_new_revisions(machine: Path) -> None:
    versions = [applied(machine, flag)["revision"]["version"] for flag in ("first", "second", "third")]
    told("off", "--all-containment")
    back = [told("rollback", "--author", "bea")["revision"] for _ in range(3)]
    assert [each["version"] for each in back] == [versions[1], versions[0], None]
    assert [each["number"] for each in back] == [5, 6, 7]
    assert [each["restores"] for each in back] == [2, 1, 0]
    assert not any(each["containment"] for each in back)
    assert catflap("rollback").exit_code == 1
    forward = told("rollback", "--to", "3")
    assert forward["revision"]["version"] == versions[2]
    assert not told("rollback", "--to", "3")["changed"]
    assert catflap("rollback", "--to", "99").exit_code == 1
    assert told("rollback")["revision"]["version"] == versions[1], "from where it was gone back to"


def test_the_switch_is_carried_forward_by_everything_but_itself(machine: Path) -> None:
    applied(machine, "first")
    assert told("off", "--all-containment", "--message", "they noticed")["changed"]
    assert not told("off", "--all-containment")["changed"]
    assert not applied(machine, "second")["revision"]["containment"]
    assert not told("rollback")["revision"]["containment"]
    assert "containment   OFF" in catflap("list").stdout
    assert told("on", "--all-containment")["revision"]["containment"]
    kinds = [revision["kind"] for revision in told("list", "--revisions")["revisions"]]
    assert kinds == ["on", "rollback", "apply", "off", "apply"]


def test_the_switch_works_before_anything_was_applied(machine: Path) -> None:
    assert told("off", "--all-containment")["revision"] == {
        **told("list")["revision"], "number": 1, "version": None, "containment": False, "kind": "off",
    }  # fmt: skip
    assert told("list")["source"].startswith("directory ")


def test_list_shows_the_rules_in_force_and_the_history(machine: Path) -> None:
    applied(machine, "first")
    shown = catflap("list", "--revisions").stdout
    for part in (
        "revision 1, ",
        "containment   on",
        "loads",
        "cat   enforce  0         covert",
        "ann  because of first",
    ):
        assert part in shown


def test_diff_says_what_changes_in_meaning(machine: Path) -> None:
    applied(machine, "first")
    write_policy(machine / "policies", "dog")
    write_policy(machine / "policies", state="suspicious", flag="first")
    found = told("diff")
    assert found["added"] == ["dog"]
    assert [(each["id"], [part["part"] for part in each["parts"]]) for each in found["altered"]] == [("cat", ["match"])]
    assert "+ dog" in catflap("diff").stdout
    assert "No rule differs" in catflap("diff", "--against", "0").stdout
    assert catflap("diff", "--against", "7").exit_code == 1


def test_diff_over_recorded_requests_says_whom_it_would_touch(machine: Path, database_url: str) -> None:
    applied(machine, "first")
    now_ms = clock.now_ms()

    def recorded(number: int, state: str | None) -> dict[str, Any]:
        lists = {"matched": "[]", "logged": "[]", "flags": "[]"}
        row = {**msgspec.structs.asdict(make_event(number)), **lists, "at_ms": now_ms - 1000, "record": None}
        if state is not None:
            facts = Facts(principal=PrincipalFacts(id=f"prin_{number}", state=state))  # type: ignore[arg-type]
            decision = no_rules().as_usual
            row["record"] = encode(record_of(facts, Roll(), decision, f"req_{number}")).decode()
        return row

    async def fill() -> None:
        database = connect(database_url)
        states = ["contained", "contained", "suspicious", "normal", None]
        async with database.write() as connection:
            await book(connection, [recorded(number, state) for number, state in enumerate(states)])
        await database.close()

    asyncio.run(fill())
    write_policy(machine / "policies", state="suspicious", flag="first")
    found = told("diff", "--last", "1h")
    assert (found["requests"], found["unrecorded"]) == (4, 1)
    (touched,) = found["touched"]
    assert (touched["gained"], sorted(touched["lost"])) == (["prin_2"], ["prin_0", "prin_1"])
    assert "cat: 1 comes under it (prin_2); 2 leaves it (prin_0, prin_1)" in catflap("diff", "--last", "1h").stdout


def test_without_redis_a_change_is_made_and_says_when_it_will_be_seen(machine: Path, redis_server: RedisServer) -> None:
    redis_server.kill()
    result = catflap("off", "--all-containment")
    assert result.exit_code == 0
    assert "within 3 seconds" in result.stderr
    redis_server.start()


async def test_two_applies_at_once_make_two_revisions_and_the_second_sees_the_first(
    database: Database, redis_server: RedisServer
) -> None:
    redis = connect_redis(redis_server.url, timeout_s=2)

    async def one(flag: str) -> tuple[int, bool]:
        files = {"rules/cat.yaml": policy_text(flag=flag)}
        change = await apply(database, redis, files, author=flag, message="at once")
        return change.revision.number, change.changed

    assert sorted(await asyncio.gather(*(one(f"flag-{number}") for number in range(4)))) == [
        (number, True) for number in (1, 2, 3, 4)
    ]
    same = await asyncio.gather(*(one("same") for _ in range(4)))
    assert sorted(same) == [(5, False), (5, False), (5, False), (5, True)]
    async with database.read() as connection:
        assert [each.number for each in await revisions(connection)] == [5, 4, 3, 2, 1]
    await redis.aclose()


async def test_each_change_is_published_once_with_its_number(database: Database, redis_server: RedisServer) -> None:
    redis: Redis = connect_redis(redis_server.url, timeout_s=2)
    async with redis.pubsub() as listener:
        await listener.subscribe(CHANNEL)
        await listener.get_message(timeout=2)
        await apply(database, redis, {"rules/cat.yaml": policy_text()}, author="ann", message="first")
        message = await listener.get_message(timeout=2)
        assert message is not None
        assert message["data"] == b"1"
    with pytest.raises(BadChange, match="no revision 5"):
        await rollback(database, redis, 5, author="ann")
    await redis.aclose()


@pytest.fixture
def api(database_url: str, redis_server: RedisServer, tmp_path: Path) -> Iterator[TestClient]:
    plans = tmp_path / "policies" / "plans"
    write_policy(tmp_path / "policies", flag="local")
    plane = create(
        database_url,
        redis_server.url,
        token=TOKEN.encode(),
        pepper=PEPPER,
        partitions=64,
        plans=plans,
        evidence_secrets=("a secret of the tests",),
    )
    with TestClient(plane, headers={"authorization": f"Bearer {TOKEN}"}) as client:
        yield client


def posted(api: TestClient, what: str, **body: object) -> Any:
    answer = api.post(f"/api/v1/policies/{what}", json={"author": "ann", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_admin_api_makes_the_same_changes(api: TestClient) -> None:
    current = api.get("/api/v1/policies/current").json()
    assert current["revision"]["number"] == 0
    assert [rule["id"] for rule in current["rules"]] == ["cat"]
    files = {"rules/cat.yaml": policy_text(flag="sent")}
    first = posted(api, "apply", files=files, message="first", source="the console")
    assert (first["revision"]["number"], first["changed"], first["told"]) == (1, True, True)
    version = first["revision"]["version"]
    assert api.get(f"/api/v1/policies/rulesets/{version}").json() == {"version": version, "files": files}
    assert api.get("/api/v1/policies/rulesets/none").status_code == 404
    assert not posted(api, "off", message="stop")["revision"]["containment"]
    assert posted(api, "rollback", to=0)["revision"]["version"] is None
    assert posted(api, "on")["revision"]["containment"]
    history = api.get("/api/v1/policies/revisions").json()["data"]
    assert [each["kind"] for each in history] == ["on", "rollback", "off", "apply"]
    assert [each["number"] for each in api.get("/api/v1/policies/revisions?before=3").json()["data"]] == [2, 1]


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("apply", {"files": {}, "message": "empty"}),
        ("apply", {"files": {"a.yaml": "kind: ["}, "message": "broken"}),
        ("apply", {"files": {"a\n.yaml": "a"}, "message": "a name"}),
        ("apply", {"files": {"a.yaml": "\ud800"}, "message": "no text"}),
        ("apply", {"files": {"a.yaml": policy_text()}, "message": ""}),
        ("rollback", {"to": 99}),
        ("rollback", {}),
        ("off", {"author": ""}),
    ],
)
def test_the_admin_api_refuses_what_cannot_be_applied(api: TestClient, what: str, body: dict[str, object]) -> None:
    answer = api.post(f"/api/v1/policies/{what}", content=json.dumps({"author": "ann", **body}))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]
    assert api.get("/api/v1/policies/revisions").json()["data"] == []


def test_an_unusable_setting_is_told_and_not_a_traceback(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATFLAP_DATABASE_URL", "mysql://nobody")
    assert catflap("list").exit_code == 2
    assert Settings().database() == "mysql://nobody"
