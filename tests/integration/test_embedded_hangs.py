"""A program that lives but does not answer is noticed within 10 s, told, and replaced; a busy one is left alone."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.embedded.process import children
from gateway.embedded.redis import redis_service
from gateway.settings import Settings
from tests.integration.embedded_fixtures import Hosted, Triton, gone, need_triton, triton_running, until

NOTICED_S = 10.0
AGAIN_S = 15.0
PROBED_S = 12.0
"""Longer than it takes to call a silent program hung."""

pytestmark = [pytest.mark.slow]


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[Triton]:
    need_triton()
    with triton_running(tmp_path) as running:
        yield running


def hang(hosted: Hosted, victim: int) -> tuple[float, float]:
    """Stop it by a signal; seconds until that was said, and until it worked again."""
    began = time.monotonic()
    os.kill(victim, signal.SIGSTOP)
    return hosted.heard(": hangs: ", began), hosted.heard("works again", began)


@pytest.mark.parametrize("victim", ["server", "stub"])
def test_a_triton_that_hangs_is_replaced_although_its_health_stays_green(triton: Triton, victim: str) -> None:
    server = triton.hosted.pid
    (stub,) = children(server)
    noticed, again = hang(triton.hosted, server if victim == "server" else stub)
    assert noticed < NOTICED_S
    assert again < NOTICED_S + AGAIN_S
    assert triton.answers()
    until(lambda: gone(server) and gone(stub))
    assert triton.hosted.supervisor.restarts == 1


def test_a_model_whose_python_is_stuck_is_replaced(tmp_path: Path) -> None:
    """Its process runs and its heartbeat is C++: only a question that its Python must answer tells."""
    need_triton()
    stick = "\nimport os, pathlib\n_real = TritonPythonModel.execute\n" + (
        f"def _execute(self, requests):\n    if pathlib.Path({str(tmp_path / 'stuck')!r}).exists():\n"
        "        import threading\n        threading.Event().wait()\n    _real(self, requests)\n"
        "TritonPythonModel.execute = _execute\n"
    )
    with triton_running(tmp_path / "var", change_model=lambda source: source + stick) as triton:
        assert triton.answers()
        began = time.monotonic()
        (tmp_path / "stuck").touch()
        assert triton.hosted.heard("the model demo does not answer", began) < NOTICED_S
        (tmp_path / "stuck").unlink()
        triton.hosted.heard("works again", began)
        assert triton.answers()


def test_a_triton_with_a_full_queue_is_busy_and_not_hung(triton: Triton) -> None:
    """One token takes longer than the whole patience then."""
    served: list[bool] = []

    def ask() -> None:
        served.append(triton.answers(max_tokens=1500))

    clients = [threading.Thread(target=ask, daemon=True) for _ in range(200)]
    for client in clients:
        client.start()
    until(lambda: triton.metric("vllm:num_requests_waiting") > 50)
    ends = time.monotonic() + PROBED_S
    while time.monotonic() < ends:
        assert triton.metric("vllm:num_requests_waiting") > 0, "the load did not last"
        time.sleep(0.5)
    assert triton.hosted.said == []
    assert triton.hosted.supervisor.restarts == 0


def test_a_triton_that_was_stopped_for_a_moment_is_left_alone(triton: Triton) -> None:
    server = triton.hosted.pid
    os.kill(server, signal.SIGSTOP)
    time.sleep(3)
    os.kill(server, signal.SIGCONT)
    time.sleep(3)  # what is shown is that nothing happens
    assert triton.hosted.said == []
    assert triton.hosted.pid == server


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Hosted]:
    hosted = Hosted(redis_service(Settings(data_dir=tmp_path)))
    hosted.start()
    try:
        yield hosted
    finally:
        hosted.stop()


def test_a_redis_that_hangs_is_replaced(redis: Hosted) -> None:
    noticed, again = hang(redis, redis.pid)
    assert noticed < NOTICED_S
    assert again < NOTICED_S + AGAIN_S
