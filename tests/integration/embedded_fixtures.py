"""A supervised program, run from synchronous tests: an event loop in a thread, and words to wait on."""

import asyncio
import json
import os
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.embedded.problem import StartError
from gateway.embedded.service import Service
from gateway.embedded.supervisor import Supervisor
from gateway.embedded.triton import find_parts, triton_service
from gateway.fleet.file import parse_fleet
from lab.ports import free_ports

WAIT_S = 30.0
ROOT = Path(__file__).parents[2]
FLEET = ROOT / "triton_models" / "fleet.demo.yaml"


class Hosted:
    """A supervisor in its own thread. `said` are its lines, each with the time it was said at."""

    def __init__(self, service: Service) -> None:
        self.said: list[tuple[float, str]] = []
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.supervisor = Supervisor(service, self._say)

    def start(self) -> None:
        self._call(self.supervisor.start())

    def stop(self) -> None:
        try:
            self._call(self.supervisor.stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(WAIT_S)
            self._loop.close()

    @property
    def pid(self) -> int:
        pid = self.supervisor.pid
        assert pid is not None
        return pid

    def tries(self, number: int) -> None:
        """Wait until it has been started again so often."""
        until(lambda: self.supervisor.restarts >= number)

    def heard(self, words: str, after: float, within_s: float = WAIT_S) -> float:
        """Wait for a line with these words, said after the given time; seconds from then to it."""

        def match() -> list[float]:
            return [at - after for at, line in self.said if at >= after and words in line]

        with self._changed:
            assert self._changed.wait_for(lambda: bool(match()), within_s), self.said
        return match()[0]

    def _say(self, line: str) -> None:
        with self._changed:
            self.said.append((time.monotonic(), line))
            self._changed.notify_all()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(2 * WAIT_S)


class Triton:
    """A running embedded Triton with the demo model, over plain HTTP."""

    def __init__(self, hosted: Hosted, environment: dict[str, str]) -> None:
        self.hosted = hosted
        self.environment = environment
        self.url = f"http://127.0.0.1:{environment['CATFLAP_TRITON_PORT']}"
        self.metrics_url = f"http://127.0.0.1:{environment['CATFLAP_TRITON_METRICS_PORT']}/metrics"

    def open(self, prompt: str, parameters: object = None, **inputs: object) -> Any:
        """The response to `generate_stream`, its body unread. Raises urllib.error.HTTPError."""
        body = {"text_input": prompt, **inputs}
        if parameters is not None:
            body["sampling_parameters"] = parameters if isinstance(parameters, str) else json.dumps(parameters)
        request = urllib.request.Request(f"{self.url}/v2/models/demo/generate_stream", json.dumps(body).encode())
        return urllib.request.urlopen(request, timeout=WAIT_S)

    def stream(self, prompt: str, parameters: object = None, **inputs: object) -> list[dict[str, Any]]:
        """All responses of a streamed request that excludes its input."""
        return list(self.events(self.open(prompt, parameters, **{"stream": True, **inputs})))

    @staticmethod
    def events(response: Any) -> Iterator[dict[str, Any]]:
        with response:
            for line in response:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])

    def refusal(self, prompt: str, parameters: object = None, **inputs: object) -> tuple[int, str]:
        """Status and error text of a request that is refused."""
        with pytest.raises(urllib.error.HTTPError) as raised:
            self.open(prompt, parameters, **{"stream": True, **inputs}).close()
        with raised.value as response:
            (event,) = self.events(response)
        return raised.value.code, event["error"]

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(self.metrics_url, timeout=WAIT_S) as response:
            lines = response.read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(name + "{")).rpartition(" ")[2])

    def answers(self, max_tokens: int = 1) -> bool:
        """Whether so many tokens can be had."""
        try:
            return len(self.stream("hi", {"max_tokens": max_tokens, "ignore_eos": True})) == max_tokens
        except (OSError, ValueError):  # HTTPError is an OSError
            return False


@contextmanager
def triton_running(
    data_dir: Path, fleet_file: Path = FLEET, change_model: Callable[[str], str] | None = None
) -> Iterator[Triton]:
    """The demo model on an embedded Triton of its own, on free ports; with `change_model`, a copy whose model.py is
    what that makes of it, in `models/demo` beside the data directory."""
    triton = triton_hosted(data_dir, change_model, fleet_file)
    try:
        triton.hosted.start()
        yield triton
    finally:
        triton.hosted.stop()


def triton_hosted(data_dir: Path, change_model: Callable[[str], str] | None = None, fleet_file: Path = FLEET) -> Triton:
    """The same, not started yet."""
    environment = triton_ports()
    repository = fleet_file.parent
    if change_model is not None:
        repository = data_dir.parent / "models"
        shutil.copytree(fleet_file.parent / "demo", repository / "demo")
        model = repository / "demo" / "1" / "model.py"
        model.write_text(change_model(model.read_text()))
    fleet = parse_fleet(fleet_file.read_text(), str(fleet_file), str(repository), environment)
    fleet = msgspec.structs.replace(fleet, tensor_models=())
    return Triton(Hosted(triton_service(fleet, fleet.endpoints[0], data_dir)), environment)


def triton_ports() -> dict[str, str]:
    """Free ports for the variables of the fleet file."""
    names = ("CATFLAP_TRITON_PORT", "CATFLAP_TRITON_GRPC_PORT", "CATFLAP_TRITON_METRICS_PORT")
    return {name: str(port) for name, port in zip(names, free_ports(len(names)), strict=True)}


def need_triton() -> None:
    """Skip with the reason where this machine lacks a part of the embedded Triton; in CI that is a failure."""
    try:
        find_parts()
    except StartError as problem:
        if os.environ.get("CI"):
            pytest.fail(str(problem))
        pytest.skip(str(problem))


def until(condition: Callable[[], bool], within_s: float = WAIT_S) -> float:
    """Ask again and again, for what sends no event; seconds until it held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within_s, "it did not come to pass in time"
        time.sleep(0.01)
    return time.monotonic() - began


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except OSError:
        return True
