"""Real redis-servers on unix sockets, in folders of their own."""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.missing import missing


class RedisServer:
    """One redis-server, which a test may kill, pause and start again. Its data survives in `folder` where `persist`."""

    def __init__(self, binary: str, folder: Path, *, persist: bool = False) -> None:
        self._binary = binary
        self._persist = persist
        self._folder = folder
        self.socket = folder / "redis.sock"
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Returns when it accepts connections."""
        arguments = ["--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700", "--save", ""]
        arguments += ["--dir", str(self._folder), "--appendonly", "yes" if self._persist else "no"]
        arguments += ["--appendfsync", "always", "--daemonize", "no", "--logfile", ""]
        self.process = subprocess.Popen([self._binary, *arguments], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "eady to accept connections" in line:
                return
        raise AssertionError("redis-server ended before it was ready")

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        if self.process is not None:
            self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing."""
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
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None


def redis_binary() -> str:
    return shutil.which("redis-server") or missing("redis-server")


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A running, empty redis-server of this test's own."""
    binary = redis_binary()
    with tempfile.TemporaryDirectory(prefix="cf-redis-") as folder:  # short: a socket's path is
        server = RedisServer(binary, Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    return redis_server.url
