"""The admin plane's first form."""

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from gateway import __version__
from gateway.admin.app import create
from tests.support.databases import PEPPER
from tests.support.redis import RedisServer


def plane(database_url: str, redis_url: str, folder: Path) -> Starlette:
    return create(
        database_url,
        redis_url,
        token=b"admin token",
        pepper=PEPPER,
        partitions=64,
        plans=folder,
        evidence_secrets=["made up"],
    )


@pytest.fixture
def client(database_url: str, redis_server: RedisServer, tmp_path: Path) -> TestClient:
    return TestClient(plane(database_url, redis_server.url, tmp_path))


def test_it_says_what_it_is(client: TestClient) -> None:
    with client:
        assert client.get("/").json() == {"name": "catflap", "version": __version__}
        assert client.get("/anything").status_code == 404


def test_it_is_ready_when_the_database_is_at_head_and_redis_answers(client: TestClient) -> None:
    with client:
        answer = client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "parts": {"database": "ready", "redis": "ready"}}


def test_without_redis_it_lives_but_is_not_ready(client: TestClient, redis_server: RedisServer) -> None:
    with client:
        redis_server.kill()
        assert client.get("/livez").status_code == 200
        answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"] == {"database": "ready", "redis": "unreachable (ConnectionError)"}


def test_with_a_redis_that_hangs_readiness_answers_all_the_same(client: TestClient, redis_server: RedisServer) -> None:
    with client:
        redis_server.pause()
        answer = client.get("/readyz")
        redis_server.resume()
    assert answer.status_code == 503


def test_a_database_that_is_not_migrated_is_not_ready(
    empty_database_url: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    with TestClient(plane(empty_database_url, redis_server.url, tmp_path)) as client:
        answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "catflap migrate" in answer.json()["parts"]["database"]


def test_a_database_that_is_away_is_named_without_its_url(redis_server: RedisServer, tmp_path: Path) -> None:
    url = f"postgresql://u:secret@/d?host={tmp_path}"
    with TestClient(plane(url, redis_server.url, tmp_path)) as client:
        answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["database"] == "unreachable (OperationalError)"
    assert "secret" not in answer.text
