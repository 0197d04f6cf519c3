"""A program that lives but does not answer is noticed within 10 s, told, and replaced; a busy one is left alone."""

import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.embedded import progress, vigil
from gateway.embedded.process import children
from gateway.embedded.redis import redis_service
from gateway.settings import Settings
from tests.integration.embedded_fixtures import Hosted, Triton, gone, need_triton, triton_running, until
from tests.support.paced import paced_running

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


@pytest.mark.parametrize("engine", ["waits", "loops"])
def test_an_engine_that_makes_no_tokens_is_replaced_although_its_model_answers(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_triton()
    monkeypatch.setattr(progress, "STALLED_S", 2.0)
    monkeypatch.setattr(vigil, "BUSY_S", 6.0)
    stick = "\nimport pathlib, threading\n_real = Transformer.forward\n" + (
        f"def _forward(self, chunks):\n    while pathlib.Path({str(tmp_path / 'stuck')!r}).exists():\n"
        f"        {'threading.Event().wait()' if engine == 'waits' else 'pass'}\n    return _real(self, chunks)\n"
        "Transformer.forward = _forward\n"
    )
    with triton_running(tmp_path / "var", change_model=lambda source: source + stick) as triton:
        assert triton.answers()
        (tmp_path / "stuck").touch()
        began = time.monotonic()
        time.sleep(PROBED_S)  # without a request it has nothing to do, and is left alone
        assert triton.hosted.said == []
        asked = threading.Thread(target=triton.answers, daemon=True)
        asked.start()
        assert triton.hosted.heard("the model demo has requests and makes no tokens", began) < PROBED_S + 12
        (tmp_path / "stuck").unlink()
        triton.hosted.heard("works again", began)
        assert triton.answers()


def test_the_supervisors_questions_are_no_failures_to_triton_and_cost_no_tokens(triton: Triton) -> None:
    until(lambda: triton.metric("nv_inference_request_success") >= 3)  # nobody else asks
    assert triton.metric("vllm:generation_tokens_total") == 0
    assert all(count == 0 for count in failures(triton.metrics_url))


def test_nor_are_they_to_the_model_of_the_tests(tmp_path: Path) -> None:
    need_triton()
    with paced_running(tmp_path) as paced:
        until(lambda: paced.metric("nv_inference_request_success") >= 3)
        assert paced.metric("paced_tokens") == 0
        metrics = paced.fleet.endpoints[0].metrics
        assert metrics is not None
        assert all(count == 0 for count in failures(metrics))


def failures(metrics_url: str) -> list[float]:
    """By reason: there are four."""
    with urllib.request.urlopen(metrics_url, timeout=10) as response:
        lines = response.read().decode().splitlines()
    found = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("nv_inference_request_failure{")]
    assert len(found) == 4
    return found


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
