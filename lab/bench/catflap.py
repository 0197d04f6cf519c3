"""Catflap started as its users start it: own data directory, own Redis, SQLite, a key, the gateway and the ledger."""

import asyncio
import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from subprocess import Popen

import msgspec
import redis

from lab.bench.client import Client
from lab.bench.errors import BenchError
from lab.bench.processes import ROOT, START_S, last_line, run_once, running
from lab.ports import free_port

PLAN = "unlimited"
CONTEXT_TOKENS = 100_000
_TEMPLATE = """\
{%- for message in messages %}<|{{ message['role'] }}|>
{{ message['content'] }}
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% endif %}"""
_FLEET = """\
apiVersion: catflap/v1
kind: Fleet
endpoints:
  - {{name: mock, http: "http://127.0.0.1:{port}"}}
models:
"""
_MODEL = """\
  - name: {name}
    triton: {{name: {name}}}
    adapter: vllm
    endpoints: [mock]
    context_tokens: {context}
    max_output_tokens: 4096
    tokenizer: bytes
    chat_template: chat.jinja
"""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What one Catflap has left behind so far."""

    scripts: int
    """Scripts that its Redis ran (EVALSHA and EVAL)."""
    events: int
    """Entries that were ever added to its event streams (those that the ledger has trimmed included)."""
    ledger_rows: int
    access_lines: int
    other_lines: int
    """Lines of the gateway's standard error that are no access-log lines."""


class Catflap:
    """A data directory with all that belongs to it; `serving` and `keeping_books` start its processes."""

    def __init__(self, folder: Path, redis_url: str, triton_port: int) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.port = free_port()
        self.metrics_port = free_port()
        self.log = folder / "serve.log"
        self.key = ""
        fleet = folder / "fleet.yaml"
        models = "".join(_MODEL.format(name=name, context=CONTEXT_TOKENS) for name in ("mock", "mock-stream"))
        fleet.write_text(_FLEET.format(port=triton_port) + models)
        (folder / "chat.jinja").write_text(_TEMPLATE)
        self.env = _environment(os.environ) | {
            "CATFLAP_DATA_DIR": str(folder / "var"),
            "CATFLAP_REDIS_URL": redis_url,
            "CATFLAP_FLEET": str(fleet),
            "CATFLAP_POLICIES": str(shipped_policies()),
            "CATFLAP_PORT": str(self.port),
            "CATFLAP_METRICS_PORT": str(self.metrics_port),
            "CATFLAP_WORK_METRICS_PORT": "0",
        }

    def prepare(self) -> None:
        """Make the database and a key without limits."""
        run_once("catflap migrate", [program(), "migrate"], env=self.env)
        words = ["key", "create", "--org", "bench", "--project", "bench", "--plan", PLAN, "--json"]
        self.key = str(json.loads(run_once("catflap key create", [program(), *words], env=self.env))["key"])

    @contextmanager
    def serving(self) -> Iterator["Popen[bytes]"]:
        """The gateway, one worker; its standard error goes to the file `log`."""
        with running("catflap serve", [program(), "serve"], self.log, env=self.env) as process:
            yield process

    @contextmanager
    def keeping_books(self) -> Iterator["Popen[bytes]"]:
        """The ledger, which reads the event streams into the database."""
        with running("catflap work ledger", [program(), "work", "ledger"], self.folder / "work.log", env=self.env) as p:
            yield p

    def counts(self) -> Counts:
        access, other = self._lines()
        with redis.Redis.from_url(self.redis_url) as server:
            statistics: Mapping[str, Mapping[str, int]] = server.info("commandstats")

        def calls(command: str) -> int:  # Redis counts what scripts call as well
            return int(statistics.get(f"cmdstat_{command}", {}).get("calls", 0))

        return Counts(
            scripts=calls("evalsha") + calls("eval"),
            events=calls("xadd"),
            ledger_rows=self._ledger_rows(),
            access_lines=access,
            other_lines=other,
        )

    def settled_counts(self, at_least: int, timeout_s: float = 30.0) -> Counts:
        """`counts`, once ledger and access log have caught up with `at_least` events and all others, or after
        `timeout_s`: both work behind the answers."""
        deadline = time.monotonic() + timeout_s
        while True:
            now = self.counts()
            if now.access_lines == now.ledger_rows == now.events >= at_least or time.monotonic() > deadline:
                return now
            time.sleep(0.1)

    def entries(self) -> int:
        """Entries in the event streams now."""
        with redis.Redis.from_url(self.redis_url) as server:
            return sum(int(server.xlen(key)) for key in server.scan_iter("cf:*:events"))

    def reservations(self) -> int:
        """Requests that still hold a reservation."""
        with redis.Redis.from_url(self.redis_url) as server:
            return sum(int(server.hlen(key)) for key in server.scan_iter("cf:*:held"))

    async def await_ready(self, process: "Popen[bytes]") -> None:
        """Return when `/readyz` says 200. Raises BenchError if it does not in time."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(OSError):
                async with Client(self.port) as client:
                    if (await client.get("/readyz")).status == 200:
                        return
            await asyncio.sleep(0.05)
        raise BenchError(f"catflap serve did not become ready: {last_line(self.log)}")

    async def gauge(self, name: str) -> float:
        """The value now of one unlabelled metric. Raises BenchError if the gateway does not tell it."""
        async with Client(self.metrics_port) as client:
            page = (await client.get("/metrics")).body.decode()
        for line in page.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise BenchError(f"The gateway has no metric {name}.")

    def _ledger_rows(self) -> int:
        with closing(sqlite3.connect(f"file:{self.folder / 'var' / 'catflap.db'}?mode=ro", uri=True)) as database:
            (rows,) = database.execute("SELECT count(*) FROM request_event").fetchone()
            return int(rows)

    def _lines(self) -> tuple[int, int]:
        access = other = 0
        for line in self.log.read_bytes().splitlines():
            if is_access_line(line):
                access += 1
            else:
                other += 1
        return access, other


def is_access_line(line: bytes) -> bool:
    """Whether a line of the gateway's log tells of one request of the API."""
    return b'"event":"request"' in line.replace(b": ", b":")


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without its own Catflap: a benchmark may not touch it."""
    return {name: value for name, value in inherited.items() if not name.startswith("CATFLAP_")}


def program() -> Path:
    """The command `catflap` of the environment that runs this. Raises BenchError if it is not installed there."""
    program = Path(sys.executable).with_name("catflap")
    if not program.exists():
        raise BenchError("The command catflap is not installed beside this Python; run `pip install -e .` first.")
    return program


def shipped_policies() -> Path:
    """The policies of the checkout, or of the installed package."""
    found = [path for path in (ROOT / "policies", ROOT / "gateway" / "share" / "policies") if path.is_dir()]
    if not found:
        raise BenchError("The folder of policies is neither in the checkout nor in the installed package.")
    return found[0]
