"""`catflap up`: ready soon, quiet on standard output, and nothing left behind."""

import os
import signal
import socket
import stat
import subprocess
from pathlib import Path

from tests.support.stack import CATFLAP, ROOT, Stack, descendants, environment, eventually, running_stack


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in _state(pid)]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_it_is_ready_within_ten_seconds(stack: Stack) -> None:
    print(f"ready after {stack.ready_s:.1f} s")
    assert stack.ready_s < 10 or os.environ.get("CI"), "slow machines are measured, not failed, in CI"


def test_the_development_key_is_kept_in_a_private_file(stack: Stack) -> None:
    path = stack.data_dir / "dev-key"
    assert path.read_text().strip() == stack.key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_redis_listens_on_its_socket_alone_and_keeps_its_log(stack: Stack) -> None:
    assert stack.redis_cli("config", "get", "port").split() == ["port", "0"]
    assert stack.redis_cli("config", "get", "appendonly").split() == ["appendonly", "yes"]


def test_ctrl_c_stops_every_child_and_the_key_outlives_it(tmp_path: Path) -> None:
    with running_stack(tmp_path) as first:
        children = list(descendants(first.process.pid))
        first.process.send_signal(signal.SIGINT)
        assert first.process.wait(30) == 0
        eventually(lambda: True if not alive(children) else None, 5, "a child outlived its parent")
        key = first.key
    with running_stack(tmp_path) as second:
        assert second.key == key
        orphans = list(descendants(second.process.pid))
        second.process.kill()
        eventually(lambda: True if not alive(orphans) else None, 10, "a child outlived a parent that was killed")


def test_a_taken_port_is_told_in_one_sentence(tmp_path: Path) -> None:
    own = environment(tmp_path)
    with socket.create_server(("127.0.0.1", int(own["CATFLAP_PORT"]))):
        ended = subprocess.run(
            [str(CATFLAP), "up", "--json"], env=own, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "CATFLAP_PORT" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
