"""What keeps a program from starting again is told once, in one sentence; it serves as soon as that is over."""

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.embedded_fixtures import Hosted, Triton, need_triton, triton_hosted, triton_running

DOWN = "still down"
SAID_S = 10.0
AGAIN_S = 45.0
"""The longest back-off, and a start."""


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[Triton]:
    """A Triton on a copy of the model, in tmp_path/models/demo."""
    need_triton()
    with triton_running(tmp_path / "var", change_model=lambda source: source) as running:
        yield running


def kill(hosted: Hosted) -> float:
    began = time.monotonic()
    os.kill(hosted.pid, signal.SIGKILL)
    return began


def lines(hosted: Hosted, words: str) -> list[str]:
    return [line for _, line in hosted.said if words in line]


def break_data(version: Path) -> None:
    """Everything that the model reads and that is no program becomes noise."""
    for file in version.parent.rglob("*"):
        if file.is_file() and file.suffix not in (".py", ".pbtxt", ".jinja", ".pyc"):
            file.write_bytes(b"\xff\xfe no weights")


def break_python(version: Path) -> None:
    (version / "model.py").write_text("def broken(:\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("break_it", "told"), [(break_python, "SyntaxError"), (break_data, "Internal: ")], ids=["model.py", "weights"]
)
def test_a_model_that_no_longer_loads_is_told_once_and_tried_until_it_does(
    copied: Triton, tmp_path: Path, break_it: object, told: str
) -> None:
    model = tmp_path / "models" / "demo"
    shutil.copytree(model, tmp_path / "kept")
    assert callable(break_it)
    break_it(model / "1")
    began = kill(copied.hosted)
    assert copied.hosted.heard(DOWN, began) < SAID_S
    (sentence,) = lines(copied.hosted, DOWN)
    assert "failed to load 'demo'" in sentence
    assert told in sentence
    assert str(tmp_path / "var" / "log" / "triton.log") in sentence
    copied.hosted.tries(4)  # it goes on trying
    assert len(lines(copied.hosted, DOWN)) == 1
    shutil.rmtree(model)
    shutil.copytree(tmp_path / "kept", model)
    copied.hosted.heard("works again", began, within_s=AGAIN_S)
    assert copied.answers()


@pytest.mark.parametrize("break_it", [break_python, break_data], ids=["model.py", "weights"])
def test_a_model_that_does_not_load_at_the_start_is_given_up_with_its_reason(tmp_path: Path, break_it: object) -> None:
    need_triton()
    triton = triton_hosted(tmp_path / "var", change_model=lambda source: source)
    assert callable(break_it)
    break_it(tmp_path / "models" / "demo" / "1")
    try:
        with pytest.raises(Exception, match=r"^Triton does not start: failed to load 'demo'.*triton\.log\)$"):
            triton.hosted.start()
        assert triton.hosted.supervisor.pid is None
    finally:
        triton.hosted.stop()


@pytest.mark.slow
def test_a_stolen_port_is_named_with_what_moves_it_and_served_when_it_is_free(copied: Triton) -> None:
    port = int(copied.url.rpartition(":")[2])
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        began = kill(copied.hosted)
        take(thief, port)
        assert copied.hosted.heard(DOWN, began) < SAID_S
        (sentence,) = lines(copied.hosted, DOWN)
        assert f"Port {port} on 127.0.0.1, which Triton needs, is taken" in sentence
        assert "CATFLAP_TRITON_PORT" in sentence
        copied.hosted.tries(3)
        assert len(lines(copied.hosted, DOWN)) == 1
    copied.hosted.heard("works again", began, within_s=AGAIN_S)
    assert copied.answers()


def take(thief: socket.socket, port: int) -> None:
    """As soon as it is free."""
    until_s = time.monotonic() + SAID_S
    while True:
        try:
            thief.bind(("127.0.0.1", port))
            thief.listen()
        except OSError:
            assert time.monotonic() < until_s
            time.sleep(0.001)
        else:
            return


@pytest.mark.slow
def test_a_program_that_keeps_failing_is_said_to_and_never_given_up(copied: Triton, tmp_path: Path) -> None:
    break_python(tmp_path / "models" / "demo" / "1")
    began = kill(copied.hosted)
    copied.hosted.heard("has failed 5 times within 5 minutes; from now on it is tried every 30 s", began, within_s=60)
    assert len(lines(copied.hosted, "has failed")) == 1
    assert copied.hosted.supervisor.restarts == 4


def test_a_log_that_is_tidied_away_ends_nothing(copied: Triton, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "var" / "log")
    began = kill(copied.hosted)
    copied.hosted.heard("works again", began)
    assert copied.answers()
