"""The model `paced` on a real Triton, from synchronous fixtures."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.embedded.triton import triton_service
from gateway.fleet.file import Fleet
from lab.paced import paced_fleet, told
from tests.integration.embedded_fixtures import Hosted, triton_ports


@dataclass
class Paced:
    """The running server and its fleet."""

    hosted: Hosted
    fleet: Fleet

    def metric(self, name: str) -> float:
        """One of the model's own numbers."""
        return told(self.fleet, name)


@contextmanager
def paced_running(data_dir: Path) -> Iterator[Paced]:
    """The server, on free ports."""
    fleet = paced_fleet(triton_ports())
    hosted = Hosted(triton_service(fleet, fleet.endpoints[0], data_dir))
    hosted.start()
    try:
        yield Paced(hosted, fleet)
    finally:
        hosted.stop()
