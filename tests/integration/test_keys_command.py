"""`catflap key` and `catflap migrate`, as a person or a script calls them."""

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from gateway.commands import key, principal, work
from gateway.core.ids import partition_of
from gateway.identity.directory import Directory
from gateway.identity.keys import parse_token
from gateway.quota.client import connect_redis
from gateway.quota.keys import epoch_key
from gateway.settings import Settings
from gateway.storage.database import connect
from tests.support.redis import RedisServer

app = typer.Typer()
app.add_typer(key.app, name="key")
app.add_typer(principal.app, name="principal")
app.command()(work.migrate)


def catflap(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory and a plan, and the environment that says so."""
    plans = tmp_path / "policies" / "plans"
    plans.mkdir(parents=True)
    (plans / "free.yaml").touch()
    (plans / "standard.yaml").touch()
    for name in ("DATABASE_URL", "REDIS_URL", "PEPPER"):
        monkeypatch.delenv(f"CATFLAP_{name}", raising=False)
    monkeypatch.setenv("CATFLAP_DATA_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("CATFLAP_POLICIES", str(tmp_path / "policies"))
    assert catflap("migrate").exit_code == 0
    return tmp_path


def create(*more: str) -> dict[str, str]:
    result = catflap("key", "create", "--org", "acme", "--project", "web", "--plan", "free", "--json", *more)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    made: dict[str, str] = json.loads(result.stdout)
    return made


def test_create_prints_one_line_of_json_with_a_key_that_works(machine: Path) -> None:
    made = create("--principal", "ann", "--expires-in", "30d")
    assert parse_token(made["key"]) == made["id"]
    assert [made[f"{what}_name"] for what in ("organisation", "project", "principal")] == ["acme", "web", "ann"]
    assert made["organisation"].startswith("org_")
    assert made["project"].startswith("proj_")
    assert made["principal"].startswith("prin_")
    assert int(made["expires_at_ms"]) - int(made["created_at_ms"]) == pytest.approx(30 * 86_400_000, abs=60_000)

    async def resolve() -> str:
        settings = Settings()
        database = connect(settings.database())
        directory = Directory(database, settings.pepper_bytes(), cache_s=60, cache_size=10, timeout_s=5)
        known = await directory.resolve(made["key"])
        await database.close()
        return known.caller.key

    assert asyncio.run(resolve()) == made["id"]


def test_a_key_without_a_principal_gets_a_service_principal_of_its_own(machine: Path) -> None:
    first, second = create(), create()
    assert first["principal"] != second["principal"]
    assert first["principal_name"] == first["id"]
    assert first["principal_kind"] == "service"


def test_the_token_is_shown_once_and_kept_nowhere(machine: Path) -> None:
    made = create()
    shown = catflap("key", "show", made["id"], "--json").stdout + catflap("key", "list", "--json").stdout
    assert made["id"] in shown
    assert "digest" not in shown
    secret = made["key"][20:]
    assert secret not in shown
    for file in (machine / "var").rglob("*"):
        assert not file.is_file() or secret.encode() not in file.read_bytes()


def test_list_names_an_organisations_keys_by_its_name_or_its_id(machine: Path) -> None:
    made, other = create(), create("--org", "other")
    for wanted in ("acme", made["organisation"]):
        found = json.loads(catflap("key", "list", "--org", wanted, "--json").stdout)
        assert [record["id"] for record in found] == [made["id"]]
    lines = catflap("key", "list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [made["id"], other["id"]]
    assert "acme/web/" in lines[0]


def test_revoke_commits_and_then_changes_the_epoch(
    machine: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATFLAP_REDIS_URL", redis_server.url)
    made = create()
    result = catflap("key", "revoke", made["id"], "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    revoked = json.loads(result.stdout)
    assert revoked["revoked_at_ms"] >= int(made["created_at_ms"])
    assert revoked["told"] is True

    async def epoch() -> bytes | None:
        redis = connect_redis(redis_server.url, timeout_s=2)
        found = await redis.get(epoch_key(partition_of(made["organisation"], 64), made["organisation"]))
        await redis.aclose()
        return found if isinstance(found, bytes) else None

    first = asyncio.run(epoch())
    assert first is not None
    again = json.loads(catflap("key", "revoke", made["id"], "--json").stdout)
    assert again["revoked_at_ms"] == revoked["revoked_at_ms"]
    assert asyncio.run(epoch()) != first


def test_revoke_without_redis_is_done_and_warns_how_long_the_key_may_live(machine: Path) -> None:
    made = create()
    result = catflap("key", "revoke", made["id"])
    assert result.exit_code == 0
    assert "up to 60 seconds" in result.stderr
    assert "revoked" in result.stdout


def test_what_a_key_is_held_to_is_shown(machine: Path) -> None:
    made = create("--scope", "chat", "--scope", "tensors", "--model", "demo", "--allow-address", "10.0.0.0/8",
                  "--tag", "ci")  # fmt: skip
    record = json.loads(catflap("key", "show", made["id"], "--json").stdout)
    assert {name: record[name] for name in ("scopes", "models", "addresses", "tags")} == {
        "scopes": ["chat", "tensors"],
        "models": ["demo"],
        "addresses": ["10.0.0.0/8"],
        "tags": ["ci"],
    }
    shown = catflap("key", "show", made["id"]).stdout
    assert "scopes        chat, tensors" in shown


def test_rotate_prints_a_second_key_for_the_same_id_as_create_did(
    machine: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATFLAP_REDIS_URL", redis_server.url)
    made = create()
    result = catflap("key", "rotate", made["id"], "--overlap", "2h", "--json")
    assert result.exit_code == 0
    assert result.stderr == ""
    rotated = json.loads(result.stdout)
    assert (rotated["id"], rotated["principal"]) == (made["id"], made["principal"])
    assert parse_token(rotated["key"]) == made["id"]
    assert rotated["key"] != made["key"]
    assert rotated["old_until_ms"] - rotated["rotated_at_ms"] == 2 * 3_600_000
    assert rotated["told"] is True
    again = catflap("key", "rotate", made["id"], "--overlap", "0s")
    assert again.exit_code == 0
    assert "the older secret has ended now" in again.stderr
    assert json.loads(catflap("key", "peppers", "--json").stdout) == {"current": 1, "old": 0, "other": 0}
    catflap("key", "revoke", made["id"])
    dead = catflap("key", "rotate", made["id"])
    assert (dead.exit_code, dead.stdout) == (1, "")
    assert "is revoked and stays so" in dead.stderr


def test_how_many_keys_are_left_under_the_old_pepper_is_told(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATFLAP_PEPPER", "the old pepper, made up")
    create()
    create()
    monkeypatch.setenv("CATFLAP_PEPPER_OLD", "the old pepper, made up")
    monkeypatch.setenv("CATFLAP_PEPPER", "the new pepper, made up")
    create()
    assert json.loads(catflap("key", "peppers", "--json").stdout) == {"current": 1, "old": 2, "other": 0}
    monkeypatch.delenv("CATFLAP_PEPPER_OLD")
    assert catflap("key", "peppers").stdout.splitlines() == ["current       1", "old           0", "other         2"]


def test_a_principals_own_limits_are_set_shown_and_removed(
    machine: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATFLAP_REDIS_URL", redis_server.url)
    owner = create("--principal", "ann")["principal"]
    tokens = ("principal", "limit", owner, "--measure", "tokens", "--per", "minute")
    assert catflap(*tokens, "--limit", "50000").exit_code == 0
    assert catflap("principal", "limit", owner, "--measure", "concurrency", "--limit", "3", "--model", "demo",
                   "--json").exit_code == 0  # fmt: skip
    shown = json.loads(catflap("principal", "show", owner, "--json").stdout)
    assert (shown["id"], shown["name"]) == (owner, "ann")
    assert shown["limits"] == [
        {"measure": "concurrency", "limit": 3, "per": None, "model": "demo"},
        {"measure": "tokens", "limit": 50_000, "per": "minute", "model": None},
    ]
    text = catflap("principal", "show", owner).stdout
    assert "limit         50000 tokens per minute" in text
    assert "limit         3 concurrency of demo" in text
    assert "tokens" not in catflap(*tokens, "--remove").stdout
    again = catflap(*tokens, "--remove")
    assert again.exit_code == 1
    assert "no such limit" in again.stderr


def test_a_limit_set_without_redis_is_set_and_warned_of(machine: Path) -> None:
    owner = create()["principal"]
    result = catflap("principal", "limit", owner, "--measure", "requests", "--per", "day", "--limit", "9")
    assert result.exit_code == 0
    assert "The limit is set, but" in result.stderr
    assert "up to 60 seconds" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["key", "create", "--org", "a", "--project", "b", "--plan", "gold"], 1, "it has free, standard"),
        (["key", "create", "--org", "a", "--project", "b", "--plan", "../plans/free"], 1, "There is no plan"),
        (["key", "create", "--org", "a\x07", "--project", "b", "--plan", "free"], 2, "control characters"),
        (["key", "create", "--org", "", "--project", "b", "--plan", "free"], 2, "must not be empty"),
        (["key", "create", "--org", "a" * 129, "--project", "b", "--plan", "free"], 2, "longer than 128"),
        (["key", "create", "--org", "a", "--project", "b", "--plan", "free", "--expires-in", "soon"], 2, "30d"),
        (["key", "create", "--org", "a"], 2, "--project"),
        (["key", "create", "--org", "a", "--project", "b", "--plan", "free", "--scope", "admin"], 2, "there are chat"),
        (["key", "create", "--org", "a", "--project", "b", "--plan", "free", "--allow-address", "x"], 2, "10.0.0.0/8"),
        (["key", "rotate", "key_none"], 1, "There is no key"),
        (["key", "rotate", "key_none", "--overlap", "soon"], 2, "--overlap"),
        (["principal", "show", "prin_none"], 1, "There is no principal"),
        (["principal", "limit", "prin_none", "--measure", "tokens", "--per", "day", "--limit", "5"], 1, "no principal"),
        (["principal", "limit", "p", "--measure", "luck", "--limit", "5"], 2, "there are requests"),
        (["principal", "limit", "p", "--measure", "tokens", "--limit", "5"], 2, "minute or day"),
        (["principal", "limit", "p", "--measure", "tokens", "--per", "day", "--limit", "0"], 2, "from 1"),
        (["principal", "limit", "p", "--measure", "tokens", "--per", "day"], 2, "--limit N or --remove"),
        (["key", "show", "key_none"], 1, "There is no key"),
        (["key", "revoke", "key_none"], 1, "There is no key"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_a_code(
    machine: Path, arguments: list[str], code: int, sentence: str
) -> None:
    result = catflap(*arguments)
    assert result.exit_code == code
    assert sentence in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


def test_a_token_in_place_of_an_id_is_not_repeated(machine: Path) -> None:
    made = create()
    for command in ("show", "revoke", "rotate"):
        result = catflap("key", command, made["key"])
        assert result.exit_code == 2
        assert made["key"] not in result.output


def test_without_a_schema_the_command_says_what_to_run(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CATFLAP_DATA_DIR", str(machine / "elsewhere"))
    result = catflap("key", "list")
    assert result.exit_code == 1
    assert "catflap migrate" in result.stderr
    assert not (machine / "elsewhere" / "catflap.db").exists()
    (machine / "empty.db").touch()
    monkeypatch.setenv("CATFLAP_DATABASE_URL", f"sqlite:///{machine / 'empty.db'}")
    assert "catflap migrate" in catflap("key", "list").stderr


def test_a_database_that_is_away_is_one_sentence_without_its_url(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CATFLAP_DATABASE_URL", f"postgresql://u:secret@/d?host={machine}")
    for arguments in (["key", "list"], ["migrate"]):
        result = catflap(*arguments)
        assert result.exit_code == 1
        assert "CATFLAP_DATABASE_URL" in result.stderr
        assert "secret" not in result.output
    monkeypatch.setenv("CATFLAP_DATABASE_URL", "mysql://u:secret@h/d")
    for arguments in (["key", "list"], ["migrate"]):
        result = catflap(*arguments)
        assert result.exit_code == 2
        assert "secret" not in result.output


def test_a_table_without_rows_lists_as_nothing(machine: Path) -> None:
    assert json.loads(catflap("key", "list", "--json").stdout) == []
    assert catflap("key", "list").stdout == ""
    with sqlite3.connect(machine / "var" / "catflap.db") as connection:
        assert connection.execute("select count(*) from key").fetchone() == (0,)
    connection.close()
