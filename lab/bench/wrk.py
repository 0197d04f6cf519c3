"""The load driver: Debian's `wrk` with a script of ours."""

import os
import shutil
import subprocess
from pathlib import Path

import msgspec

from lab.bench.errors import BenchError

_MARK = "RESULT "


class WrkReport(msgspec.Struct, frozen=True, kw_only=True):
    """What wrk counted: requests that were answered in full, whatever their status; latencies over those."""

    requests: float
    seconds: float
    p50_ms: float
    p99_ms: float
    bad_status: float
    socket_errors: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def failures(self) -> int:
        return int(self.bad_status + self.socket_errors)


def find_wrk() -> str:
    """The path of wrk. Raises BenchError naming the package when it is missing."""
    path = shutil.which("wrk")
    if path is None:
        raise BenchError("The load driver wrk is not on the PATH; it comes with Debian's package wrk.")
    return path


def drive(url: str, key: str, body: Path, *, connections: int, seconds: float) -> WrkReport:
    """Send the file `body` to `url` over `connections` kept-alive connections, each as fast as it is answered."""
    script = Path(__file__).with_name("chat.lua")
    command = [
        find_wrk(),
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "10s",
        "-s",
        str(script),
        url,
    ]
    env = os.environ | {"BENCH_BODY": str(body), "BENCH_KEY": key}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise BenchError(f"wrk failed with code {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return parse(done.stdout)


def parse(output: str) -> WrkReport:
    """The report in wrk's output. Raises BenchError if there is none, or a malformed one."""
    lines = [line for line in output.splitlines() if line.startswith(_MARK)]
    if not lines:
        raise BenchError("wrk printed no result line.")
    try:
        return msgspec.json.decode(lines[-1].removeprefix(_MARK), type=WrkReport)
    except msgspec.DecodeError as problem:
        raise BenchError(f"wrk printed a result that cannot be read: {problem}") from problem
