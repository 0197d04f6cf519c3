"""Starting and stopping the processes of a benchmark: each in a process group of its own, its children with it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import redis

import lab
from lab.bench.errors import BenchError

ROOT = Path(lab.__file__).parents[1]
"""The folder that holds the packages `lab` and `gateway`: a checkout, or site-packages."""

STOP_S = 15.0  # a process that has not ended this long after SIGTERM is killed
START_S = 60.0  # a process that is not ready after this long has failed


def listen() -> socket.socket:
    """A listening socket on a free loopback port, for a child to inherit: no port has to be guessed."""
    return socket.create_server(("127.0.0.1", 0), backlog=1024)


@contextmanager
def running(
    name: str,
    command: Sequence[str | Path],
    log: Path,
    *,
    env: Mapping[str, str] = os.environ,
    cwd: Path = ROOT,
    listener: socket.socket | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` for the length of the block, both its outputs in the file `log`.

    `listener` is handed to the child under its own number and closed here, so that a child's death refuses connections.
    Raises BenchError if the process cannot be started or if it has ended by itself before the block does.
    """
    with log.open("ab") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[listener.fileno()] if listener else [],
            )
        except OSError as problem:
            raise BenchError(f"{name} cannot be started: {problem}.") from problem
    if listener:
        listener.close()
    try:
        yield process
        if (code := process.poll()) is not None:
            raise BenchError(f"{name} ended by itself with code {code}: {last_line(log)}")
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group: asked first, killed when it does not go."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # the whole group has gone
            os.killpg(process.pid, sign)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            continue
        with suppress(ProcessLookupError):  # children that outlived their parent
            os.killpg(process.pid, signal.SIGKILL)
        return


def run_once(name: str, command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path = ROOT) -> str:
    """Standard output of a command that ends by itself. Raises BenchError with its last words if it fails."""
    try:
        done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=START_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise BenchError(f"{name} did not run: {problem}.") from problem
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise BenchError(f"{name} failed with code {done.returncode}: {words[-1] if words else 'it said nothing'}")
    return done.stdout


@contextmanager
def mock_triton(folder: Path, chunks: int = 50, tick_ms: float = 1.0) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A mock Triton of its own process: the process and its port."""
    with listen() as listener:
        port, fd = listener.getsockname()[1], str(listener.fileno())
        command = [sys.executable, "-m", "lab.bench.mock_triton", "--fd", fd]
        command += ["--chunks", str(chunks), "--tick-ms", str(tick_ms)]
        with running("the mock Triton", command, folder / "mock.log", listener=listener) as process:
            yield process, port


@contextmanager
def redis_server(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A Redis of its own on a unix socket in `folder`, nothing kept on disk: the process and the URL."""
    program = shutil.which("redis-server")
    if program is None:
        raise BenchError("redis-server is not on the PATH; it comes with Debian's package redis-server.")
    path = folder / "redis.sock"
    command: list[str | Path] = [
        program,
        "--port",
        "0",
        "--unixsocket",
        path,
        "--unixsocketperm",
        "700",
        "--dir",
        folder,
    ]
    command += ["--save", "", "--appendonly", "no", "--daemonize", "no"]
    with running("redis-server", command, folder / "redis.log", cwd=folder) as process:
        url = f"unix://{path}"
        _await_redis(process, url)
        yield process, url


def _await_redis(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_S
    with redis.Redis.from_url(url) as client:
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(redis.ConnectionError):
                client.ping()
                return
            time.sleep(0.01)
    raise BenchError("redis-server did not answer on its socket.")


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the block like any exception, so that every process started in it is stopped on the way out."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def last_line(log: Path) -> str:
    """The last words of a process."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
