"""`catflap up`, as its user meets it: one line when ready, one sentence when not, and nothing left behind."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.embedded.launcher import __file__ as launcher
from tests.integration.embedded_fixtures import FLEET, ROOT, WAIT_S, gone, need_triton, until
from tests.support.ports import own_environment
from tests.support.stack import descendants

COMMAND = (sys.executable, "-P", "-c", "from gateway.cli import main; main()", "up", "--json")
STOPPED_S = 20.0
NOTICED_S = 2.0
AGAIN_S = 15.0


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return private(tmp_path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Up"]:
    """One that tests may hurt, so long as it mends itself."""
    with up(private(tmp_path_factory.mktemp("shared"))) as running:
        running.wait_ready()
        yield running


def private(folder: Path) -> dict[str, str]:
    """An environment with a data directory and ports of its own."""
    need_triton()
    return own_environment(folder)


class Up:
    """A running `catflap up`."""

    def __init__(self, process: subprocess.Popen[str], environment: dict[str, str]) -> None:
        self.process = process
        self.environment = environment
        self.ready: dict[str, str] = {}

    def wait_ready(self) -> dict[str, str]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.ready = json.loads(line)
        return self.ready

    def children(self) -> list[int]:
        return list(descendants(self.process.pid))

    def heard(self, words: str) -> str:
        """Read its standard error up to a line with these words: that line."""
        assert self.process.stderr is not None
        return next(line for line in self.process.stderr if words in line)

    def serves(self) -> bool:
        try:
            return bool(self.ask()["choices"])
        except OSError:
            return False

    def ask(self) -> Any:
        body = {"model": self.ready["model"], "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        headers = {"authorization": f"Bearer {self.ready['key']}", "content-type": "application/json"}
        request = urllib.request.Request(f"{self.ready['url']}/v1/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=WAIT_S) as response:
            return json.load(response)


@contextmanager
def up(environment: dict[str, str], command: tuple[str, ...] = COMMAND) -> Iterator[Up]:
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Up(process, environment)
        finally:
            process.terminate()  # not kill: its shared memory would stay until the next start, which never comes
            try:
                process.wait(STOPPED_S)
            finally:
                process.kill()


def refusal(environment: dict[str, str], command: tuple[str, ...] = COMMAND) -> str:
    """The one sentence of an `up` that cannot be; that nothing but it was said, and nothing left running."""
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (1, ""), ended.stderr
    assert "Traceback" not in ended.stderr
    *steps, sentence = ended.stderr.splitlines()
    assert all("ready after" in step for step in steps)
    until(lambda: not processes_of(environment["CATFLAP_DATA_DIR"]))
    return sentence


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()


def processes_of(data_dir: str) -> list[str]:
    """Processes (zombies aside) that name this data directory in their command line or environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if data_dir.encode() in words and int(process.name) != os.getpid() and not gone(int(process.name)):
            found.append(words.decode(errors="replace")[:200])
    return found


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_however_it_ends_nothing_is_left_and_the_next_one_has_the_same_key(environment: dict[str, str]) -> None:
    keys = set()
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        with up(environment) as running:
            ready = running.wait_ready()
            assert set(ready) == {"url", "admin_url", "key", "model"}
            assert running.ask()["choices"][0]["message"]["content"]
            keys.add(ready["key"])
            children = running.children()
            assert len(children) >= 6  # Redis, Triton and its stub, serve, admin, work
            running.process.send_signal(number)
            assert running.process.wait(STOPPED_S) == (-number if number == signal.SIGKILL else 0)
            output, errors = running.process.communicate()
            assert output == ""
            assert all("ready after" in line for line in errors.splitlines())
            for child in children:
                until(partial(gone, child), within_s=5)
    assert len(keys) == 1
    assert (Path(environment["CATFLAP_DATA_DIR"]) / "dev-key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("program", ["redis-server", " serve$", " admin$", " work all$", "bin/tritonserver", "stub "])
def test_a_killed_child_is_started_again(shared: Up, program: str) -> None:
    victim = next(pid for pid in shared.children() if re.search(program, command_line(pid)))
    killed = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    shared.heard("starting it again")
    assert time.monotonic() - killed < NOTICED_S
    shared.heard("works again")
    until(shared.serves, within_s=AGAIN_S)


def test_a_second_one_on_the_same_data_directory_is_refused(shared: Up) -> None:
    second = subprocess.run(COMMAND, env=shared.environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (second.returncode, second.stdout) == (1, "")
    assert f"Another `catflap up` (process {shared.process.pid}) runs on" in second.stderr
    assert shared.serves()


@pytest.mark.parametrize("name", ["CATFLAP_ADMIN_PORT", "CATFLAP_TRITON_GRPC_PORT", "CATFLAP_TRITON_METRICS_PORT"])
def test_a_taken_port_is_named(environment: dict[str, str], name: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        sentence = refusal({**environment, name: str(port)})
    assert sentence.startswith(f"Port {port} on 127.0.0.1, ")
    assert name in sentence


def test_a_triton_that_does_not_start_is_quoted(environment: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(FLEET.parent, tmp_path / "models")
    (tmp_path / "models" / "demo" / "1" / "model.py").write_text("raise RuntimeError('no such cat')\n")
    sentence = refusal({**environment, "CATFLAP_FLEET": str(tmp_path / "models" / FLEET.name)})
    assert sentence.startswith("Triton does not start: failed to load 'demo'")
    assert "no such cat" in sentence
    assert "var/log/triton.log" in sentence


def test_a_redis_that_does_not_start_is_quoted(environment: dict[str, str], tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "redis-server"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'no memory for cats'\nexit 3\n")
    fake.chmod(0o755)
    sentence = refusal({**environment, "PATH": f"{fake.parent}:{environment['PATH']}"})
    assert sentence.startswith("Redis does not start: no memory for cats")
    assert "redis.log" in sentence


def test_a_database_that_cannot_be_used_is_said(environment: dict[str, str]) -> None:
    sentence = refusal({**environment, "CATFLAP_DATABASE_URL": "mysql://somewhere/else"})
    assert sentence.startswith("The database cannot be used: ")
    assert "CATFLAP_DATABASE_URL" in sentence


def test_a_launched_program_ends_with_a_parent_that_is_already_gone() -> None:
    ended = subprocess.run([sys.executable, "-I", "-S", launcher, "1", "sleep", "60"], timeout=WAIT_S, check=False)
    assert ended.returncode == -signal.SIGKILL


FAMILY = """
import os, subprocess, sys
launcher, script = sys.argv[1:]
family = [sys.executable, "-I", "-S", launcher, str(os.getpid()), "sh", "-c", script]
subprocess.run(family, start_new_session=True)
"""


def test_a_programs_own_children_end_with_its_parent() -> None:
    command = [sys.executable, "-c", FAMILY, launcher, "sleep 600 & echo $$ $!; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        family = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(family) == 2
        parent.kill()
        for member in family:
            until(partial(gone, member), within_s=5)


def test_a_program_that_is_not_there_is_said_by_the_launcher() -> None:
    command = [sys.executable, "-I", "-S", launcher, str(os.getpid()), "/no/such/program"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert (ended.returncode, ended.stderr) == (127, "/no/such/program: No such file or directory\n")
