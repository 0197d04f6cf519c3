"""A master, its replica, and a Sentinel that watches them: real ones, on loopback."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.ports import free_ports
from tests.support.redis_cluster import TcpRedis, until

NAME = "catflap-main"
DOWN_AFTER_MS = 500
SENTINEL = """
sentinel monitor {name} 127.0.0.1 {master} 1
sentinel down-after-milliseconds {name} {down}
sentinel failover-timeout {name} 3000
"""


class SentinelSet:
    """Three servers: `master` and `replica` as they were at the start."""

    def __init__(self, binary: str, folder: Path) -> None:
        ports = free_ports(3)
        self.master = TcpRedis(binary, folder / "a", ports[0], "--repl-diskless-sync", "no")
        self.replica = TcpRedis(binary, folder / "b", ports[1], "--replicaof", "127.0.0.1", str(ports[0]))
        written = folder / "sentinel.conf"  # it keeps its state there
        written.write_text(SENTINEL.format(name=NAME, master=ports[0], down=DOWN_AFTER_MS))
        self.sentinel = TcpRedis(binary, folder / "c", ports[2], "--sentinel", config=written)

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/{NAME}/0"

    def start(self) -> None:
        """Returns when the Sentinel could fail over."""
        for server in (self.master, self.replica, self.sentinel):
            server.start()
        with self.sentinel.client() as client:
            until(lambda: self._replicas_of(client) == 1, "the Sentinel")
        with self.master.client() as client:
            until(lambda: client.execute_command("ROLE")[2], "the replica's connection")

    def stop(self) -> None:
        for server in (self.sentinel, self.replica, self.master):
            server.stop()

    def fail_over(self) -> None:
        """By hand: the replica is promoted, the old master lives on as its replica."""
        with self.sentinel.client() as client:
            until(lambda: client.execute_command("SENTINEL", "FAILOVER", NAME), "a replica fit for it")

    def _replicas_of(self, client: Any) -> int:
        return int(client.sentinel_master(NAME)["num-slaves"])


@pytest.fixture
def sentinel_set(any_redis_binary: str) -> Iterator[SentinelSet]:
    with tempfile.TemporaryDirectory(prefix="cf-sentinel-") as folder:
        made = SentinelSet(any_redis_binary, Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.stop()
