"""Processes of a benchmark begin, are accounted for, and end with all of their children."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from lab.bench import processes
from lab.bench.accounting import cpu_seconds, machine_cpu_seconds, peak_memory_mb, tree
from lab.bench.errors import BenchError

PARENT = """\
import subprocess, sys, time
deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", deaf])
print(child.pid, flush=True)
time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_line(log: Path) -> str:
    deadline = time.monotonic() + 10
    while not (text := log.read_text()).endswith("\n"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return text


def test_a_process_ends_with_its_block_and_its_children_end_with_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with processes.running("a parent", [sys.executable, "-c", PARENT], log) as parent:
        child = int(wait_for_line(log))
        assert tree(parent.pid) == [parent.pid, child]
        assert peak_memory_mb([parent.pid, child]) > peak_memory_mb([child]) > 0
    assert parent.returncode == -signal.SIGTERM
    deadline = time.monotonic() + 10
    while alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_does_not_listen_to_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_S", 0.1)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    with processes.running("a deaf one", [sys.executable, "-c", code], tmp_path / "log") as deaf:
        wait_for_line(tmp_path / "log")
    assert deaf.returncode == -signal.SIGKILL


def test_a_process_that_ended_by_itself_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with (
        pytest.raises(BenchError, match=r"^a short one ended by itself with code 3: no such luck$"),
        processes.running(
            "a short one", [sys.executable, "-c", "print('no such luck'); exit(3)"], tmp_path / "log"
        ) as p,
    ):
        p.wait(10)


def test_a_program_that_is_not_there_is_an_error_with_its_name(tmp_path: Path) -> None:
    with (
        pytest.raises(BenchError, match=r"^nothing cannot be started: "),
        processes.running("nothing", [tmp_path / "nothing"], tmp_path / "log"),
    ):
        pass


def test_a_command_that_fails_is_an_error_with_its_last_words() -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('the last word')"]
    with pytest.raises(BenchError, match=r"^a step failed with code 1: the last word$"):
        processes.run_once("a step", command, env=os.environ)
    assert processes.run_once("a step", [sys.executable, "-c", "print(1)"], env=os.environ) == "1\n"


def test_redis_without_its_program_is_said_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match=r"Debian's package redis-server\.$"), processes.redis_server(tmp_path):
        pass


def test_sigterm_leaves_the_run_through_its_exits() -> None:
    with pytest.raises(SystemExit), processes.terminable():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)  # the handler runs at once; this is never slept through
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_cpu_time_is_counted_while_it_is_used() -> None:
    before, machine_before = cpu_seconds([os.getpid()]), machine_cpu_seconds()
    deadline = time.monotonic() + 10
    while cpu_seconds([os.getpid()]) < before + 0.05:
        assert time.monotonic() < deadline
    assert machine_cpu_seconds() > machine_before
    assert cpu_seconds([2**22 + 1]) == 0  # no such process
