"""The whole house, started as a user starts it: `catflap up --json`, on ports and in a folder of its own."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.support.missing import missing
from tests.support.ports import own_environment

ROOT = Path(__file__).parents[2]
CATFLAP = Path(sys.executable).with_name("catflap")
START_S = 60


@dataclass
class Stack:
    """A running `catflap up`."""

    process: "subprocess.Popen[str]"
    url: str
    admin_url: str
    key: str
    model: str
    environment: dict[str, str]
    ready_s: float

    @property
    def data_dir(self) -> Path:
        """Its data directory."""
        return Path(self.environment["CATFLAP_DATA_DIR"])

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`catflap ARGUMENTS` beside it."""
        return subprocess.run(
            [str(CATFLAP), *arguments], env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )

    def new_key(self, plan: str) -> str:
        """A key of a new principal."""
        made = self.run("key", "create", "--org", "acme", "--project", "web", "--plan", plan, "--json")
        assert made.returncode == 0, made.stderr
        key = json.loads(made.stdout)["key"]
        assert isinstance(key, str)
        return key

    def scrape(self, port_variable: str) -> dict[str, float]:
        """The Prometheus values at the port that a variable names, by name and labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.environment[port_variable]}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def generated_tokens(self) -> float:
        """The demo model's own counter."""
        return next(v for k, v in self.scrape("CATFLAP_TRITON_METRICS_PORT").items() if "generation_tokens_total" in k)

    def event(self, request_id: str) -> dict[str, object]:
        """What the ledger holds of a request, as soon as it does."""

        def look() -> dict[str, object] | None:
            with sqlite3.connect(f"file:{self.data_dir / 'catflap.db'}?mode=ro", uri=True, timeout=5) as database:
                database.row_factory = sqlite3.Row
                columns = [row[1] for row in database.execute("pragma table_info(request_event)")]
                key = "request" if "request" in columns else "id"
                row = database.execute(f"select * from request_event where {key} = ?", (request_id,)).fetchone()
            return dict(row) if row else None

        return eventually(look, 15, f"the ledger has no event of {request_id}")

    def redis_cli(self, *words: str) -> str:
        """What Redis answers."""
        socket_path = next(Path(self.data_dir / "redis").glob("*.sock"))
        return subprocess.run(
            ["redis-cli", "-s", str(socket_path), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout

    def held(self) -> int:
        """Reservations that are neither settled nor reclaimed."""
        names = [name for name in self.redis_cli("--scan", "--pattern", "cf:*:held").split() if name]
        return sum(int(self.redis_cli("hlen", name)) for name in names)

    def child(self, needle: str) -> int:
        """The process id of the descendant whose command line holds `needle`."""
        for pid in descendants(self.process.pid):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if any(needle in word for word in words[:1]):
                return pid
        raise AssertionError(f"no child process {needle}")


Found = TypeVar("Found")


def eventually(look: Callable[[], Found | None], seconds: float, otherwise: str) -> Found:
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(0.02)
    raise AssertionError(otherwise)


def descendants(pid: int) -> Iterator[int]:
    """Every living descendant of a process."""
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = tasks.read_text().split()
        except OSError:
            continue
        for child in children:
            yield int(child)
            yield from descendants(int(child))


def slow_fleet(folder: Path, token_ms: int) -> Path:
    """The demo's repository with a pace at which tokens can be counted; its fleet file."""
    copy = folder / "triton_models"
    shutil.copytree(ROOT / "triton_models", copy, ignore=shutil.ignore_patterns("__pycache__"))
    config = copy / "demo" / "config.pbtxt"
    text = config.read_text()
    paced = text.replace(
        'key: "token_ms" value: { string_value: "2" }', f'key: "token_ms" value: {{ string_value: "{token_ms}" }}'
    )
    assert paced != text
    config.write_text(paced)
    return copy / "fleet.demo.yaml"


@contextmanager
def running_stack(folder: Path, **more: str) -> Iterator[Stack]:
    """`catflap up --json` until the block ends; its children end with it."""
    own = own_environment(folder) | {"CATFLAP_POLICIES": str(ROOT / "policies")} | more
    started = time.monotonic()
    with (folder / "up.log").open("w") as log:
        process = subprocess.Popen(
            [str(CATFLAP), "up", "--json"], env=own, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        line = _first_line(process)
        if not line:
            words = (folder / "up.log").read_text()
            if "nvidia-pytriton" in words or "libpython" in words:
                missing("the embedded Triton")
            raise AssertionError(f"catflap up did not start: {words}")
        told = json.loads(line)
        yield Stack(
            process, told["url"], told["admin_url"], told["key"], told["model"], own, time.monotonic() - started
        )
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _first_line(process: "subprocess.Popen[str]") -> str:
    """The first line on standard output; empty when the process ends or takes too long."""
    assert process.stdout is not None
    watchdog = threading.Timer(START_S, process.kill)
    watchdog.start()
    try:
        return process.stdout.readline()
    finally:
        watchdog.cancel()
