"""The house itself: files, keys, gateways and background readers over one Redis, one database and one upstream."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.identity.issue import IssuedKey, issue_key
from gateway.storage.database import Database, connect
from gateway.storage.migrate import migrate
from lab.bench.catflap import program
from lab.bench.client import Client
from lab.bench.errors import BenchError
from lab.bench.processes import START_S, last_line, listen
from lab.house.program import Program
from lab.house.redis import RedisHouse
from lab.ports import free_port

PEPPER = "the pepper of a house that is torn down"
QUICK, HELD = "mock", "mock-stream"
"""Public names of the models, and Triton's: one answers at once, the other after a while (lab/house/upstream.py)."""

Plans = Mapping[str, Sequence[Mapping[str, Any]]]
"""Name of a plan -> its limits, as a plan file has them."""


class House:
    """Nothing runs before `start`; `stop` ends everything."""

    def __init__(
        self,
        folder: Path,
        redis: RedisHouse,
        *,
        plans: Plans,
        gateways: int,
        database_url: str | None = None,
        hold_ms: int = 1000,
        weights: Mapping[str, float] | None = None,
        costs: Mapping[str, float] | None = None,
        settings: Mapping[str, str] | None = None,
        workers: Sequence[str] = ("ledger", "reclaimer"),
    ) -> None:
        self.folder = folder
        self.redis = redis
        self.database_url = database_url or f"sqlite:///{folder / 'catflap.db'}"
        self.truths = folder / "truths.jsonl"
        listener = listen()
        fd = listener.fileno()
        self._listener = listener
        words = ["-m", "lab.house.upstream", "--fd", str(fd), "--hold-ms", str(hold_ms), "--log", str(self.truths)]
        self.upstream = Program("the upstream", [sys.executable, *words], folder / "upstream.log", fds=[fd])
        self.policies = folder / "policies"
        self._weights = weights or {}
        write_plans(self.policies, plans, self._weights)
        _write_fleet(folder / "fleet.yaml", listener.getsockname()[1], costs or {})
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("CATFLAP_")} | {
            "CATFLAP_DATA_DIR": str(folder / "var"),
            "CATFLAP_DATABASE_URL": self.database_url,
            "CATFLAP_REDIS_URL": redis.url,
            "CATFLAP_POLICIES": str(self.policies),
            "CATFLAP_FLEET": str(folder / "fleet.yaml"),
            "CATFLAP_PEPPER": PEPPER,
            "CATFLAP_WORK_METRICS_PORT": "0",
            **(settings or {}),
        }
        self.gateways = [self._gateway(number) for number in range(gateways)]
        self.workers = {name: self._worker(name) for name in workers}
        self.database: Database = connect(self.database_url)

    async def start(self) -> None:
        """Everything runs and is ready. Raises BenchError."""
        self.redis.start()
        self.upstream.start()
        self._listener.close()
        migrate(self.database_url)  # not in a thread: Alembic keeps its context in its module, for one at a time
        for one in (*self.gateways, *self.workers.values()):
            one.start()
        await asyncio.gather(*(gateway.ready() for gateway in self.gateways))

    async def stop(self) -> None:
        await self.database.close()
        for one in (*self.workers.values(), *self.gateways, self.upstream):
            one.stop()
        self.redis.stop()

    def policies_for(self, gateway: int, plans: Plans) -> Path:
        """Give one gateway a folder of policy files of its own, and a data directory, where it keeps the rules that it
        had last. Before `start`."""
        folder = self.folder / f"policies-{gateway}"
        write_plans(folder, plans, self._weights)
        own = {"CATFLAP_POLICIES": str(folder), "CATFLAP_DATA_DIR": str(self.folder / f"var-{gateway}")}
        self.gateways[gateway] = self._gateway(gateway, own)
        return folder

    async def key(self, organisation: str, project: str, principal: str, plan: str) -> IssuedKey:
        """A new key."""
        return await issue_key(
            self.database, PEPPER.encode(), organisation=organisation, project=project, principal=principal, plan=plan
        )

    def _gateway(self, number: int, settings: Mapping[str, str] | None = None) -> "Gateway":
        return Gateway(number, self.folder, {**self._env, **(settings or {})})

    def _worker(self, name: str) -> Program:
        return Program(f"catflap work {name}", [program(), "work", name], self.folder / f"{name}.log", env=self._env)


class Gateway(Program):
    """One `catflap serve`, which may be killed and started again on its port."""

    def __init__(self, number: int, folder: Path, env: Mapping[str, str]) -> None:
        self.port, self.metrics_port = free_port(), free_port()
        ports = {"CATFLAP_PORT": str(self.port), "CATFLAP_METRICS_PORT": str(self.metrics_port)}
        name = f"gateway {number + 1}"
        super().__init__(name, [program(), "serve"], folder / f"gateway{number + 1}.log", env={**env, **ports})

    async def ready(self) -> None:
        """Return when `/readyz` says 200. Raises BenchError if it does not in time."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if not self.alive:
                break
            with suppress(OSError):
                async with Client(self.port) as client:
                    if (await client.get("/readyz")).status == 200:
                        return
            await asyncio.sleep(0.05)
        raise BenchError(f"{self.name} did not become ready: {last_line(self.log)}")

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels; 0 where it is not there."""
        async with Client(self.metrics_port) as client:
            page = (await client.get("/metrics")).body.decode()
        lines = (line.rpartition(" ") for line in page.splitlines())
        return sum(float(value) for key, _, value in lines if key.partition("{")[0] == name)


def write_plans(policies: Path, plans: Plans, weights: Mapping[str, float]) -> None:
    """A plan file for each."""
    folder = policies / "plans"
    folder.mkdir(parents=True)
    for name, limits in plans.items():
        spec = {"default_max_tokens": 16, "limits": list(limits), "weights": dict(weights)}
        plan = {"apiVersion": "catflap/v1", "kind": "Plan", "metadata": {"id": name, "description": name}, "spec": spec}
        (folder / f"{name}.yaml").write_text(json.dumps(plan))


def _write_fleet(path: Path, port: int, costs: Mapping[str, float]) -> None:
    model = {
        "endpoints": ["mock"],
        "context_tokens": 100_000,
        "max_output_tokens": 4096,
        "tokenizer": "bytes",
        "cost": dict(costs),
    }
    fleet = {
        "apiVersion": "catflap/v1",
        "kind": "Fleet",
        "endpoints": [{"name": "mock", "http": f"http://127.0.0.1:{port}"}],
        "models": [{"name": name, "triton": {"name": name}, **model} for name in (QUICK, HELD)],
    }
    path.write_text(json.dumps(fleet))
