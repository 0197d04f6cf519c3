"""The peers of `bench gateway`: the two floors and Catflap. Each is started afresh for every round."""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Protocol

from lab.bench.catflap import Catflap
from lab.bench.processes import listen, redis_server, running

PLAIN_FLOOR, REDIS_FLOOR, CATFLAP = "plain floor", "redis floor", "catflap"


class Running:
    """One peer under measurement."""

    def __init__(self, port: int, key: str, process: "Popen[bytes]", started: float) -> None:
        self.port = port
        self.key = key
        self.process = process
        self.started = started
        """time.perf_counter() just before its process was started."""
        self.beside: dict[str, Popen[bytes]] = {}
        """Other processes that work for it, by name: their CPU is told apart, never as its own."""
        self.catflap: Catflap | None = None


class Peer(Protocol):
    """Something that takes chat completions in front of a mock Triton."""

    def __call__(self, folder: Path, triton_port: int) -> AbstractContextManager[Running]: ...


@contextmanager
def plain_floor(folder: Path, triton_port: int) -> Iterator[Running]:
    """Starlette and aiohttp, nothing checked."""
    with _floor(folder, triton_port, []) as floor:
        yield floor


@contextmanager
def redis_floor(folder: Path, triton_port: int) -> Iterator[Running]:
    """The same with one EVALSHA a request."""
    with redis_server(folder) as (server, url), _floor(folder, triton_port, ["--redis", url]) as floor:
        floor.beside["redis"] = server
        yield floor


@contextmanager
def catflap(folder: Path, triton_port: int) -> Iterator[Running]:
    """Everything on: keys, limits, records, metrics, access log, the ledger beside it."""
    with ExitStack() as stack:
        server, url = stack.enter_context(redis_server(folder))
        gateway = Catflap(folder, url, triton_port)
        gateway.prepare()
        ledger = stack.enter_context(gateway.keeping_books())
        started = time.perf_counter()
        process = stack.enter_context(gateway.serving())
        peer = Running(gateway.port, gateway.key, process, started)
        peer.beside = {"redis": server, "ledger": ledger}
        peer.catflap = gateway
        yield peer


PEERS: dict[str, Peer] = {PLAIN_FLOOR: plain_floor, REDIS_FLOOR: redis_floor, CATFLAP: catflap}


@contextmanager
def _floor(folder: Path, triton_port: int, more: list[str]) -> Iterator[Running]:
    with listen() as listener:
        port, fd = listener.getsockname()[1], str(listener.fileno())
        command = [sys.executable, "-m", "lab.bench.floor", "--fd", fd]
        command += ["--upstream", f"http://127.0.0.1:{triton_port}", *more]
        started = time.perf_counter()
        with running("a floor", command, folder / "floor.log", listener=listener) as process:
            yield Running(port, "bench", process, started)
