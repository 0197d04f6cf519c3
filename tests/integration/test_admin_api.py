"""The admin API over real databases and a real Redis: keys, rotation, limits of principals, and who may call it."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from gateway.admin.api import Api
from gateway.admin.app import create
from gateway.admin.evidence import EvidenceRoutes
from gateway.admin.guard import Guard
from gateway.canary.phrase import phrase_of, words_of
from gateway.core.caller import Override
from gateway.core.errors import Unauthenticated
from gateway.core.ids import partition_of
from gateway.evidence.seal import Seal
from gateway.evidence.writer import Evidence, Writer
from gateway.identity.directory import Directory, Known
from gateway.identity.keys import parse_token
from gateway.quota.client import connect_redis
from gateway.quota.keys import epoch_key
from gateway.storage.database import connect
from gateway.telemetry import clock
from tests.support.databases import PEPPER
from tests.support.redis import RedisServer

EVIDENCE_SECRET = "a secret for evidence"
TOKEN = "the admin token of these tests, made up"
AUTHORISED = {"authorization": f"Bearer {TOKEN}"}
NEW = {"organisation": "acme", "project": "web", "plan": "free", "principal": "ann"}


def plane(database_url: str, redis_url: str, folder: Path) -> Starlette:
    plans = folder / "plans"
    plans.mkdir(exist_ok=True)
    (plans / "free.yaml").touch()
    return create(
        database_url,
        redis_url,
        token=TOKEN.encode(),
        pepper=PEPPER,
        partitions=64,
        plans=plans,
        evidence_secrets=[EVIDENCE_SECRET],
    )


@pytest.fixture
def api(database_url: str, redis_server: RedisServer, tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(plane(database_url, redis_server.url, tmp_path), headers=AUTHORISED) as client:
        yield client


@pytest.fixture
def sqlite_api(sqlite_url: str, redis_server: RedisServer, tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(plane(sqlite_url, redis_server.url, tmp_path), headers=AUTHORISED) as client:
        yield client


def made(api: TestClient, **more: object) -> dict[str, Any]:
    answer = api.post("/api/v1/keys", json={**NEW, **more})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def resolved(database_url: str, token: str) -> Known:
    async def resolve() -> Known:
        database = connect(database_url)
        try:
            return await Directory(database, PEPPER, cache_s=60, cache_size=10, timeout_s=5).resolve(token)
        finally:
            await database.close()

    return asyncio.run(resolve())


def epoch_of(redis_url: str, organisation: str) -> int:
    async def read() -> int:
        redis = connect_redis(redis_url, timeout_s=2)
        found = await redis.get(epoch_key(partition_of(organisation, 64), organisation))
        await redis.aclose()
        return int(found or 0)

    return asyncio.run(read())


def routes_of(app: Starlette) -> list[tuple[str, str]]:
    """(method, path) of every route under /api/v1, as the application itself lists them."""
    mount = next(route for route in app.routes if isinstance(route, Mount))
    assert mount.path == "/api/v1"
    assert isinstance(mount.app, Guard)
    inside = mount.app._app
    assert isinstance(inside, Starlette)
    found = [route for route in inside.routes if isinstance(route, Route)]
    assert len(found) == len(inside.routes)
    return [
        (method, "/api/v1" + route.path.replace("{id}", "key_1")) for route in found for method in route.methods or ()
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": TOKEN},
        {"authorization": "Bearer "},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": b"Bearer \xff\xfe"},
        {"cookie": f"token={TOKEN}"},
        {"host": "127.0.0.1", "x-forwarded-for": "127.0.0.1"},
    ],
)
def test_every_route_of_the_api_is_refused_without_the_admin_token(
    sqlite_url: str, redis_server: RedisServer, tmp_path: Path, headers: dict[str, str]
) -> None:
    """CVE-2026-35029: configuration routes with no role check."""
    app = plane(sqlite_url, redis_server.url, tmp_path)
    routes = routes_of(app)
    assert len(routes) >= 9
    with TestClient(app) as client:
        for method, path in [*routes, ("GET", "/api/v1/"), ("GET", "/api/v1/nothing"), ("POST", "/api/v1//keys")]:
            answer = client.request(method, path, headers=headers)
            assert answer.status_code == 401, (method, path)
            if method != "HEAD":
                assert answer.json()["error"]["code"] == "invalid_api_key"
        assert client.get("/api/v1/keys", headers=AUTHORISED).json()["data"] == []  # nothing was done


@pytest.mark.parametrize("host", ["livez", "evil.example/livez", "127.0.0.1:8081/readyz?", "a@b:1/#"])
def test_a_host_header_opens_nothing_on_the_admin_plane(
    sqlite_url: str, redis_server: RedisServer, tmp_path: Path, host: str
) -> None:
    """CVE-2026-48710, CVE-2026-49468: a Host header that poisons the URL by which paths are authorised."""
    with TestClient(plane(sqlite_url, redis_server.url, tmp_path), follow_redirects=False) as client:
        for path, status in {"/api/v1/keys": 401, "/api/v1/": 401, "/api/v1": 404, "/livez/": 404}.items():
            answer = client.get(path, headers={"host": host})
            assert answer.status_code == status, path
            assert "location" not in answer.headers


def test_an_api_key_of_a_client_opens_no_route_of_the_api(sqlite_api: TestClient) -> None:
    token = made(sqlite_api)["key"]
    assert sqlite_api.get("/api/v1/keys", headers={"authorization": f"Bearer {token}"}).status_code == 401


def test_a_key_is_made_listed_and_shown_and_its_secret_told_once(api: TestClient, database_url: str) -> None:
    key = made(api, scopes=["chat"], models=["demo"], addresses=["10.0.0.0/8"], tags=["ci"], expires_in_s=60)
    assert parse_token(key["key"]) == key["id"]
    assert key["expires_at_ms"] - key["created_at_ms"] == pytest.approx(60_000, abs=5000)
    listed, shown = api.get("/api/v1/keys?organisation=acme").json(), api.get(f"/api/v1/keys/{key['id']}").json()
    assert listed == {"data": [shown], "has_more": False}
    assert shown == {name: value for name, value in key.items() if name != "key"}
    assert "digest" not in str(listed)
    caller = resolved(database_url, key["key"]).caller
    assert (caller.scopes, caller.models, caller.tags) == (frozenset({"chat"}), frozenset({"demo"}), ("ci",))


def test_a_long_list_comes_in_pages(sqlite_api: TestClient) -> None:
    ids = [made(sqlite_api)["id"] for _ in range(5)]
    seen, after = [], ""
    while True:
        page = sqlite_api.get(f"/api/v1/keys?limit=2{after}").json()
        seen += [record["id"] for record in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={seen[-1]}"
    assert seen == [record["id"] for record in sqlite_api.get("/api/v1/keys").json()["data"]]
    assert sorted(seen) == sorted(ids)
    assert sqlite_api.get("/api/v1/keys?after=key_none").json()["data"] == []


def test_rotate_and_revoke_do_what_the_commands_do_and_change_the_epoch(
    api: TestClient, database_url: str, redis_server: RedisServer
) -> None:
    key = made(api)
    rotated = api.post(f"/api/v1/keys/{key['id']}/rotate", json={"overlap_s": 60}).json()
    assert (rotated["id"], rotated["told"], rotated["ended_early"]) == (key["id"], True, False)
    assert rotated["key"] != key["key"]
    for token in (key["key"], rotated["key"]):
        assert resolved(database_url, token).caller.key == key["id"]
    before = epoch_of(redis_server.url, key["organisation"])
    assert before > 0
    revoked = api.post(f"/api/v1/keys/{key['id']}/revoke").json()
    assert revoked["revoked_at_ms"] is not None
    assert epoch_of(redis_server.url, key["organisation"]) > before
    for token in (key["key"], rotated["key"]):
        with pytest.raises(Unauthenticated):
            resolved(database_url, token)
    refused = api.post(f"/api/v1/keys/{key['id']}/rotate", json={})
    assert refused.status_code == 400
    assert "revoked" in refused.json()["error"]["message"]


def test_a_principals_own_limits_are_set_shown_changed_and_removed(
    api: TestClient, database_url: str, redis_server: RedisServer
) -> None:
    key = made(api)
    path = f"/api/v1/principals/{key['principal']}/limits"
    assert api.get(path).json() == {"data": []}
    first = {"measure": "tokens", "per": "minute", "limit": 50_000}
    second = {"measure": "concurrency", "limit": 3, "model": "demo"}
    epochs = [epoch_of(redis_server.url, key["organisation"])]
    for body in (first, second, {**first, "limit": 60_000}):
        assert api.put(path, json=body).status_code == 200
        epochs.append(epoch_of(redis_server.url, key["organisation"]))
    assert epochs == sorted(set(epochs))
    overrides = resolved(database_url, key["key"]).caller.overrides
    assert overrides == (Override("concurrency", 3, None, "demo"), Override("tokens", 60_000, "minute", None))
    assert api.get(f"/api/v1/principals/{key['principal']}").json()["limits"] == api.get(path).json()["data"]
    assert api.delete(path, params={"measure": "tokens", "per": "minute"}).json()["data"] == [{**second, "per": None}]
    assert api.delete(path, params={"measure": "tokens", "per": "minute"}).status_code == 404
    assert epoch_of(redis_server.url, key["organisation"]) > epochs[-1]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "keys", {**NEW, "plan": "gold"}, 400, "there are free"),
        ("POST", "keys", {**NEW, "plan": "../plans/free"}, 400, "no such plan"),
        ("POST", "keys", {**NEW, "organisation": "a\x07"}, 400, "control characters"),
        ("POST", "keys", {**NEW, "scopes": ["admin"]}, 400, "there are chat"),
        ("POST", "keys", {**NEW, "scopes": []}, 400, "1 to 64 scopes"),
        ("POST", "keys", {**NEW, "addresses": ["10.0.0.1/8"]}, 400, "host bits"),
        ("POST", "keys", {**NEW, "role": "admin"}, 400, "role"),
        ("POST", "keys", {"organisation": "a"}, 400, "project"),
        ("POST", "keys", [], 400, "object"),
        ("POST", "keys/key_none/revoke", None, 404, "no such key"),
        ("POST", "keys/key_none/rotate", None, 404, "no such key"),
        ("POST", "keys/key_none/rotate", {"overlap_s": -1}, 400, "overlap_s"),
        ("GET", "keys/key_none", None, 404, "no such key"),
        ("GET", "keys?limit=0", None, 400, "1 to 1000"),
        ("GET", "keys?limit=\u0663", None, 400, "1 to 1000"),
        ("GET", "principals/prin_none/limits", None, 404, "no such principal"),
        ("PUT", "principals/prin_none/limits", {"measure": "tokens", "per": "day", "limit": 1}, 404, "principal"),
        ("PUT", "principals/p/limits", {"measure": "luck", "limit": 1}, 400, "there are requests"),
        ("PUT", "principals/p/limits", {"measure": "tokens", "per": "month", "limit": 1}, 400, "minute or day"),
        ("PUT", "principals/p/limits", {"measure": "tokens", "per": "day", "limit": 0}, 400, "from 1 to"),
        ("DELETE", "principals/p/limits", None, 400, "cannot be limited"),
        ("GET", "nothing", None, 404, "nothing at this URL"),
        ("DELETE", "keys", None, 405, "not allowed"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    sqlite_api: TestClient, method: str, path: str, body: object, status: int, words: str
) -> None:
    answer = sqlite_api.request(method, f"/api/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]


def test_a_body_without_end_is_refused(sqlite_api: TestClient) -> None:
    assert sqlite_api.post("/api/v1/keys", content=b" " * 70_000).status_code == 413
    assert sqlite_api.post("/api/v1/keys", content=b"[" * 60_000).status_code == 400


def test_every_change_is_logged_with_who_and_what_and_no_secret(sqlite_api: TestClient) -> None:
    with structlog.testing.capture_logs() as lines:
        key = made(sqlite_api)
        rotated = sqlite_api.post(f"/api/v1/keys/{key['id']}/rotate").json()
        limit = {"measure": "tokens", "per": "minute"}
        sqlite_api.put(f"/api/v1/principals/{key['principal']}/limits", json={**limit, "limit": 5})
        sqlite_api.delete(f"/api/v1/principals/{key['principal']}/limits", params=limit)
        sqlite_api.post(f"/api/v1/keys/{key['id']}/revoke")
    assert [line["event"] for line in lines] == [
        "key_created",
        "key_rotated",
        "principal_limit_set",
        "principal_limit_removed",
        "key_revoked",
    ]
    for line in lines:
        assert line["actor"] == "admin token"
        assert line["address"] == "testclient"
        assert line["organisation"] == key["organisation"]
    told = json.dumps(lines)
    for secret in (key["key"], rotated["key"], TOKEN):
        assert secret[20:] not in told


def test_a_change_is_made_and_said_to_be_untold_when_redis_is_away(
    sqlite_api: TestClient, redis_server: RedisServer
) -> None:
    key = made(sqlite_api)
    redis_server.kill()
    answer = sqlite_api.post(f"/api/v1/keys/{key['id']}/revoke").json()
    assert answer["told"] is False
    assert answer["revoked_at_ms"] is not None


def test_a_database_that_is_away_is_503_and_its_url_is_not_told(redis_server: RedisServer, tmp_path: Path) -> None:
    url = f"postgresql://u:secret@/d?host={tmp_path}"
    with TestClient(plane(url, redis_server.url, tmp_path), headers=AUTHORISED) as client:
        answer = client.get("/api/v1/keys")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "secret" not in answer.text


def test_a_fault_tells_nothing_of_itself(sqlite_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("planted secret")

    monkeypatch.setattr("gateway.admin.api.show_key", fail)
    database, redis = connect(sqlite_url), connect_redis("unix:///nonexistent", timeout_s=1)
    api = Api(database, redis, 64, PEPPER, tmp_path, EvidenceRoutes(database, Seal(["made up"])))
    with contextlib.suppress(RuntimeError), TestClient(api.app(), raise_server_exceptions=False) as client:
        answer = client.get("/keys/key_1")
        assert answer.status_code == 500
        assert "planted" not in answer.text
    asyncio.run(api.database.close())


def test_evidence_is_listed_read_with_a_reason_and_the_reading_is_listed(api: TestClient, database_url: str) -> None:
    async def keep() -> None:
        database = connect(database_url)
        writer = Writer(database, Seal([EVIDENCE_SECRET]), days=30)
        at_ms = clock.now_ms()
        writer.keep(100, lambda: Evidence("req_1", "org_1", "prin_1", at_ms, b"asked", b"sent", ("answered",)))
        writer.gave("prin_1", words_of(b"k", "prin_1"), 5)
        await writer.close()
        await database.close()

    asyncio.run(keep())
    (row,) = api.get("/api/v1/evidence").json()["data"]
    assert row["request"] == "req_1"
    assert "content" not in row
    assert api.post("/api/v1/evidence/req_1/readings", json={"reader": "ann"}).status_code == 400
    assert api.post("/api/v1/evidence/req_1/readings", json={"reader": "ann", "reason": ""}).status_code == 400
    assert api.post("/api/v1/evidence/req_2/readings", json={"reader": "ann", "reason": "why"}).status_code == 404
    assert api.get("/api/v1/evidence-readings").json()["data"] == []
    with structlog.testing.capture_logs() as lines:
        opened = api.post("/api/v1/evidence/req_1/readings", json={"reader": "ann", "reason": "ticket 7"}).json()
    assert opened["content"] == [["asked", 0], ["sent", 0], [["answered", 0]], 0]
    assert [line["event"] for line in lines] == ["evidence_read"]
    assert "answered" not in str(lines)
    (reading,) = api.get("/api/v1/evidence-readings", params={"principal": "prin_1"}).json()["data"]
    assert (reading["request"], reading["reader"], reading["reason"]) == ("req_1", "ann", "ticket 7")
    pasted = {"text": f"so: {phrase_of(words_of(b'k', 'prin_1'))}!"}
    (found,) = api.post("/api/v1/canaries/trace", json=pasted).json()["data"]
    assert (found["principal"], found["at"]) == ("prin_1", 4)
    assert api.post("/api/v1/canaries/trace", json={"text": "nothing of interest"}).json() == {"data": []}
    assert api.post("/api/v1/canaries/trace", json={"text": " "}).status_code == 400
