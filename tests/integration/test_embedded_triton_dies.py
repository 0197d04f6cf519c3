"""A Triton that loses its server or its model's process is noticed within 2 s, and serves again within 15 s."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.embedded import triton as parts
from gateway.embedded.problem import StartError
from gateway.embedded.process import children
from gateway.fleet.file import parse_fleet
from tests.integration.embedded_fixtures import (
    FLEET,
    ROOT,
    Hosted,
    Triton,
    gone,
    need_triton,
    triton_ports,
    triton_running,
    until,
)

NOTICED_S = 2.0
AGAIN_S = 15.0


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[Triton]:
    need_triton()
    with triton_running(tmp_path) as running:
        yield running


def stubs(pid: int) -> list[int]:
    return [child for child in children(pid) if not gone(child)]


@pytest.mark.parametrize("victim", ["stub", "server"])
def test_a_killed_process_is_noticed_and_replaced(triton: Triton, victim: str) -> None:
    server = triton.hosted.pid
    (stub,) = stubs(server)
    killed = time.monotonic()
    os.kill(stub if victim == "stub" else server, signal.SIGKILL)
    assert triton.hosted.heard("starting it again", killed) < NOTICED_S
    assert triton.hosted.heard("works again", killed) < AGAIN_S
    assert triton.answers()
    until(lambda: gone(server) and gone(stub))
    assert triton.hosted.supervisor.restarts == 1


def test_a_stop_leaves_no_process_and_no_shared_memory(tmp_path: Path) -> None:
    need_triton()
    with triton_running(tmp_path) as running:
        server = running.hosted.pid
        (stub,) = stubs(server)
        prefix = parts.shared_memory_prefix(tmp_path / "triton")
        assert list(parts.SHARED_MEMORY.glob(f"{prefix}*"))
    assert gone(server)
    assert gone(stub)
    assert not list(parts.SHARED_MEMORY.glob(f"{prefix}*"))


def test_shared_memory_of_a_killed_server_is_cleared_at_the_next_start(triton: Triton, tmp_path: Path) -> None:
    prefix = parts.shared_memory_prefix(tmp_path / "triton")
    before = set(parts.SHARED_MEMORY.glob(f"{prefix}*"))
    server = triton.hosted.pid
    (stub,) = stubs(server)
    killed = time.monotonic()
    os.kill(server, signal.SIGKILL)
    os.kill(stub, signal.SIGKILL)
    triton.hosted.heard("works again", killed)
    assert not before & set(parts.SHARED_MEMORY.glob(f"{prefix}*"))


def test_a_model_that_does_not_load_is_said_in_one_sentence(tmp_path: Path) -> None:
    need_triton()
    broken = tmp_path / "repository" / "demo"
    (broken / "1").mkdir(parents=True)
    (broken / "config.pbtxt").write_text((FLEET.parent / "demo" / "config.pbtxt").read_text())
    (broken / "1" / "model.py").write_text("raise RuntimeError('no such cat')\n")
    fleet = parse_fleet(FLEET.read_text(), "fleet", str(broken.parent), triton_ports())
    fleet = msgspec.structs.replace(fleet, tensor_models=())
    hosted = Hosted(parts.triton_service(fleet, fleet.endpoints[0], tmp_path / "var"))
    try:
        with pytest.raises(StartError, match=r"Triton does not start: failed to load 'demo'.*no such cat.*triton\.log"):
            hosted.start()
        assert hosted.supervisor.pid is None
    finally:
        hosted.stop()


HOST = """
import sys, threading
from pathlib import Path
from tests.integration.embedded_fixtures import triton_running
with triton_running(Path(sys.argv[1])) as running:
    print(running.hosted.pid, flush=True)
    threading.Event().wait()
"""


@pytest.mark.parametrize("hanging", [False, True], ids=["at work", "hanging"])
def test_nothing_outlives_a_parent_that_was_killed(tmp_path: Path, hanging: bool) -> None:
    need_triton()
    with subprocess.Popen([sys.executable, "-c", HOST, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        (stub,) = stubs(server)
        if hanging:
            os.kill(server, signal.SIGSTOP)
            os.kill(stub, signal.SIGSTOP)
        parent.kill()
        until(lambda: gone(server) and gone(stub), within_s=5)
    parts.clear_shared_memory(parts.shared_memory_prefix(tmp_path / "triton"))  # as the next start would
