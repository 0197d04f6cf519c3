"""`catflap up` over the gateway's own processes: one that hangs is replaced, a stolen port is named and taken back."""

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.embedded.process import children
from tests.integration.embedded_fixtures import gone, until
from tests.integration.test_embedded_mends import take
from tests.integration.test_embedded_up import Up, command_line, private, up

NOTICED_S = 10.0
AGAIN_S = 20.0

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One that tests may hurt, so long as it mends itself."""
    with up(private(tmp_path_factory.mktemp("shared"))) as running:
        running.wait_ready()
        yield running


def child(running: Up, program: str) -> int:
    return next(pid for pid in running.children() if re.search(program, command_line(pid)))


@pytest.mark.parametrize("program", [" serve$", " admin$", " work all$", "redis-server", "bin/tritonserver", "stub "])
def test_a_child_that_hangs_is_replaced(shared: Up, program: str) -> None:
    began = time.monotonic()
    os.kill(child(shared, program), signal.SIGSTOP)
    shared.heard(": hangs: ")
    assert time.monotonic() - began < NOTICED_S
    shared.heard("works again")
    until(shared.serves, within_s=AGAIN_S)


def test_what_nobody_reads_any_more_ends_no_supervision(tmp_path: Path) -> None:
    with up(private(tmp_path)) as running:
        running.wait_ready()
        assert running.process.stderr is not None
        running.process.stderr.close()
        for _ in range(2):
            victim = child(running, " serve$")
            os.kill(victim, signal.SIGKILL)
            until(lambda: gone(victim) and running.serves(), within_s=AGAIN_S)  # noqa: B023


def test_a_worker_that_hangs_is_replaced_while_the_others_serve(tmp_path: Path) -> None:
    """That is uvicorn's doing; `/livez` cannot show it, for another worker answers."""
    with up({**private(tmp_path), "CATFLAP_WORKERS": "2"}) as running:
        running.wait_ready()
        worker = next(pid for pid in children(child(running, " serve$")) if "spawn_main" in command_line(pid))
        began = time.monotonic()
        os.kill(worker, signal.SIGSTOP)
        until(lambda: gone(worker))
        assert time.monotonic() - began < NOTICED_S
        until(running.serves, within_s=AGAIN_S)


def test_a_stolen_port_of_the_data_plane_is_named_and_served_when_it_is_free(shared: Up) -> None:
    port = int(shared.environment["CATFLAP_PORT"])
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        os.kill(child(shared, " serve$"), signal.SIGKILL)
        take(thief, port)
        line = shared.heard("still down")
        assert f"Port {port} on 127.0.0.1, which the data plane needs, is taken" in line
        assert "CATFLAP_PORT" in line
    shared.heard("works again")
    until(shared.serves, within_s=AGAIN_S)
