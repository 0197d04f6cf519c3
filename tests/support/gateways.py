"""Real gateway processes over a real Redis, SQLite and three scriptable Tritons, started once for the session; the
third is a decoy, which ordinary requests never meet.

Tests of this world share one event loop (`pytestmark = in_the_world`), so that the Tritons answer between them too.
Each takes a key in an organisation of its own; who breaks a part mends it.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from gateway.core import event as events
from gateway.core.event import RequestEvent
from gateway.core.ids import partition_of
from gateway.identity.bounds import check_bounds
from gateway.identity.issue import IssuedKey, issue_key
from gateway.quota import keys
from gateway.quota.open import open_redis
from gateway.storage.database import Database, connect
from gateway.storage.migrate import migrate
from gateway.workers.reclaimer import reclaim_partition
from lab.ports import free_port
from tests.support.eventually import eventually
from tests.support.http import Answer, exchange, request_bytes
from tests.support.issuers import write_issuers
from tests.support.redis import RedisServer, redis_binary
from tests.support.triton import FakeTriton

in_the_world = pytest.mark.asyncio(loop_scope="session")

PARTITIONS = 2
PEPPER = "a pepper that nobody may read"
MAX_BODY = 65_536
TIMEOUTS = {
    "CATFLAP_CONNECT_TIMEOUT_S": "1",
    "CATFLAP_FIRST_TOKEN_TIMEOUT_S": "1.5",
    "CATFLAP_TOKEN_TIMEOUT_S": "1",
    "CATFLAP_REQUEST_TIMEOUT_S": "5",
    "CATFLAP_BODY_TIMEOUT_S": "1",
    "CATFLAP_DRAIN_TIMEOUT_S": "2",
}
DEAR = {"prompt": 10, "output": 100, "kv_gib_second": 0.001}
"""What 1,000 tokens of the model `dear` cost; each of its tokens holds a GiB."""
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
CHARGE = {"request": 100, "element": 10}
"""Of the tensor models, which double a vector of numbers."""
PLANS: dict[str, list[tuple[str, int]]] = {
    "open": [],
    "wide": [("requests", 1000), ("tokens", 1_000_000)],
    "seven_requests": [("requests", 7)],
    "eight_requests": [("requests", 8)],
    "seven_hundred_tokens": [("requests", 1000), ("tokens", 700)],
}

SPECS: dict[str, dict[str, object]] = {
    "two_at_a_time": {"limits": [{"measure": "concurrency", "limit": 2, "at": "principal"}]},
    "heavy_output": {"limits": [{"measure": "tokens", "limit": 1000}], "weights": {"prompt": 0.5, "output": 10}},
    "solo_is_scarce": {
        "limits": [{"measure": "requests", "limit": 9}, {"measure": "requests", "limit": 1, "model": "solo"}]
    },
    "small_purse": {"limits": [{"measure": "cost", "limit": 1, "at": "organisation"}]},
    "every_level": {
        "limits": [
            {"measure": "requests", "limit": 2, "at": "key"},
            {"measure": "requests", "limit": 3, "at": "principal"},
            {"measure": "requests", "limit": 4, "at": "project"},
            {"measure": "requests", "limit": 5, "at": "organisation"},
        ]
    },
}
"""Plans that need more words."""


class Gateway:
    """One `catflap serve`."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        self.port, self.metrics_port = free_port(), free_port()
        self.log = folder / f"{name}.log"
        self._environment = {
            **os.environ,
            **environment,
            "CATFLAP_PORT": str(self.port),
            "CATFLAP_METRICS_PORT": str(self.metrics_port),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("catflap"), "serve"], env=self._environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(8)
            except subprocess.TimeoutExpired:
                self.kill()

    async def get(self, path: str, token: str | None = None, **headers: str) -> Answer:
        return await self.request("GET", path, token, **headers)

    async def request(self, method: str, path: str, token: str | None = None, **headers: str) -> Answer:
        """A request without a body."""
        given = {"Authorization": f"Bearer {token}"} if token else {}
        return await exchange(self.port, request_bytes(path, method=method, headers={**given, **headers}))

    async def post(self, path: str, token: str | None, body: object, **headers: str) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Authorization": f"Bearer {token}"} if token else {}
        return await exchange(self.port, request_bytes(path, data, headers={**given, **headers}))

    async def chat(self, token: str, **fields: Any) -> Answer:
        """Ask `demo` for a chat; `fields` are the request's."""
        body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20, **fields}
        return await self.post("/v1/chat/completions", token, body)

    async def metrics(self) -> str:
        answer = await exchange(self.metrics_port, request_bytes("/metrics", method="GET"))
        return (await answer.body()).decode()

    async def metric(self, name: str) -> float:
        """The value of a metric without labels."""
        lines = (await self.metrics()).splitlines()
        return next((float(line.split(" ")[1]) for line in lines if line.startswith(name + " ")), 0.0)

    async def is_ready(self) -> bool:
        """Every model is served by every endpoint that it names, and Redis answers."""
        try:
            answer = await self.get("/readyz")
            report = await answer.json()
        except (OSError, asyncio.IncompleteReadError):
            return False
        words = {word for endpoints in report.get("models", {}).values() for word in endpoints.values()}
        return answer.status == 200 and words == {"ready"}


class World:
    """All parts."""

    def __init__(self, folder: Path, redis: RedisServer, tritons: Sequence[FakeTriton], database: Database) -> None:
        self.folder = folder
        self.redis_server = redis
        self.redis: Any = Redis.from_url(redis.url)
        self.tritons = tritons
        self.database = database
        environment = {
            **TIMEOUTS,
            "CATFLAP_DATA_DIR": str(folder / "data"),
            "CATFLAP_DATABASE_URL": f"sqlite:///{folder / 'catflap.db'}",
            "CATFLAP_REDIS_URL": redis.url,
            "CATFLAP_POLICIES": str(folder / "policies"),
            "CATFLAP_FLEET": str(folder / "fleet.yaml"),
            "CATFLAP_PEPPER": PEPPER,
            "CATFLAP_PARTITIONS": str(PARTITIONS),
            "CATFLAP_MAX_BODY_BYTES": str(MAX_BODY),
            "CATFLAP_TRUSTED_PROXIES": "127.0.0.1/32",
        }
        self.environment = environment
        self.gateways = [Gateway(name, folder, environment) for name in ("first", "second")]

    @property
    def gateway(self) -> Gateway:
        return self.gateways[0]

    async def ready(self) -> None:
        for gateway in self.gateways:
            await eventually(gateway.is_ready, within_s=20, what="the gateway's readiness")

    async def key(
        self,
        plan: str = "open",
        organisation: str | None = None,
        project: str = "web",
        principal: str | None = None,
        **bounds: list[str],
    ) -> IssuedKey:
        """A new key, in an organisation of its own unless one is named; `bounds` are what it is held to."""
        name = organisation or f"org {os.urandom(6).hex()}"
        return await issue_key(
            self.database,
            PEPPER.encode(),
            organisation=name,
            project=project,
            principal=principal,
            plan=plan,
            bounds=check_bounds(**bounds),
        )

    def partition(self, key: IssuedKey) -> int:
        return partition_of(key.record.organisation, PARTITIONS)

    async def events(self, key: IssuedKey) -> list[RequestEvent]:
        """The events of a key, oldest first."""
        entries = await self.redis.xrange(keys.events_key(self.partition(key)))
        found = [events.decode(fields[b"e"]) for _, fields in entries]
        return [one for one in found if one.key == key.record.id]

    async def event(self, key: IssuedKey) -> RequestEvent:
        """The key's one event, once it is there."""
        found = await eventually(lambda: self.events(key), what="the event")
        assert len(found) == 1
        return found[0]

    async def reclaim(self, partition: int) -> int:
        """What the reclaimer does with one partition; how many reservations it ended."""
        connection = open_redis(self.redis_server.url, timeout_s=2)
        await connection.start()
        try:
            return await reclaim_partition(connection, partition)
        finally:
            await connection.close()

    async def held(self) -> int:
        """Reservations and leases of all requests."""
        held = [await self.redis.hlen(keys.held_key(p)) for p in range(PARTITIONS)]
        leases = [await self.redis.zcard(keys.lease_key(p)) for p in range(PARTITIONS)]
        return int(max(sum(held), sum(leases)))

    async def nothing_held(self) -> None:
        async def none() -> bool:
            return await self.held() == 0

        await eventually(none, what="the end of all reservations")

    async def used(self, key: IssuedKey, limit: str) -> int:
        """Units of a limit that count now, as the window says."""
        name = keys.limit_key(self.partition(key), key.record.id, limit)
        return int(await self.redis.hget(name, "sum") or 0)


def write_files(folder: Path, ports: Sequence[int]) -> None:
    """Plans, issuers, fleet file and chat template."""
    plans = folder / "policies" / "plans"
    plans.mkdir(parents=True)
    for name, limits in PLANS.items():
        SPECS[name] = {"limits": [{"measure": m, "limit": limit} for m, limit in limits]}
    for name, words in SPECS.items():
        spec = {"default_max_tokens": 20, **words}
        plan = {"apiVersion": "catflap/v1", "kind": "Plan", "metadata": {"id": name, "description": name}, "spec": spec}
        (plans / f"{name}.yaml").write_text(json.dumps(plan))
    write_issuers(folder / "policies", plans=sorted(PLANS))
    model: dict[str, object] = {
        "triton": {"name": "demo"},
        "context_tokens": 4096,
        "max_output_tokens": 1024,
        "tokenizer": "bytes",
        "chat_template": "chat.jinja",
        "abilities": ["logprobs"],
    }
    fleet = {
        "apiVersion": "catflap/v1",
        "kind": "Fleet",
        "endpoints": [
            {"name": "e0", "http": f"http://127.0.0.1:{ports[0]}"},
            {"name": "e1", "http": f"http://127.0.0.1:{ports[1]}"},
            {"name": "decoy", "http": f"http://127.0.0.1:{ports[2]}", "pool": "decoy", "covert": True},
        ],
        "models": [
            {"name": "demo", "endpoints": ["e0", "e1", "decoy"], **model},
            {"name": "solo", "endpoints": ["e0"], **model},
            {"name": "narrow", "endpoints": ["e0"], **model, "context_tokens": 400},
            {"name": "dear", "endpoints": ["e0"], "cost": DEAR, "kv_bytes_per_token": 1 << 30, **model},
        ],
        "tensor_models": [
            {"name": "doubler", "triton": {"name": "doubler"}, "endpoints": ["e0", "e1"], "charge": CHARGE},
            {"name": "lone", "triton": {"name": "doubler"}, "endpoints": ["e0"], "charge": CHARGE},
        ],
    }
    (folder / "fleet.yaml").write_text(json.dumps(fleet))
    (folder / "chat.jinja").write_text(TEMPLATE)


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def whole_world() -> AsyncIterator[World]:
    """Started once."""
    with tempfile.TemporaryDirectory(prefix="cf-world-") as name:
        folder = Path(name)
        tritons = [FakeTriton(), FakeTriton(), FakeTriton()]
        for triton in tritons:
            await triton.start()
        write_files(folder, [triton.port for triton in tritons])
        migrate(f"sqlite:///{folder / 'catflap.db'}")
        redis = RedisServer(redis_binary(), folder, persist=True)
        redis.start()
        world = World(folder, redis, tritons, connect(f"sqlite:///{folder / 'catflap.db'}"))
        for gateway in world.gateways:
            gateway.start()
        try:
            await world.ready()
            yield world
        finally:
            for gateway in world.gateways:
                gateway.stop()
            await world.redis.aclose()
            await world.database.close()
            redis.stop()
            for triton in tritons:
                await triton.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def world(whole_world: World) -> AsyncIterator[World]:
    """All parts ready, both Tritons polite; afterwards nothing may be held."""
    for triton in whole_world.tritons:
        triton.reset()
    await whole_world.ready()
    yield whole_world
    await whole_world.nothing_held()
