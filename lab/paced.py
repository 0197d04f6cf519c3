"""A real Triton with the model `paced` (lab/models), which answers as its prompt orders: for tests and measurements."""

import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from gateway.core.delta import Delta
from gateway.core.prompt import Sampling
from gateway.fleet.file import Fleet, parse_fleet
from gateway.fleet.health import Health
from gateway.fleet.models import load_models
from gateway.fleet.router import Asked, Choice, Router
from gateway.fleet.transports.client import Timeouts

Road = Literal["http", "grpc"]
ROADS: tuple[Road, ...] = ("http", "grpc")
MODELS = Path(__file__).parent / "models"
FLEET = """
apiVersion: catflap/v1
kind: Fleet
endpoints:
  - name: here
    http: http://127.0.0.1:${CATFLAP_TRITON_PORT}
    grpc: 127.0.0.1:${CATFLAP_TRITON_GRPC_PORT}
    metrics: http://127.0.0.1:${CATFLAP_TRITON_METRICS_PORT}/metrics
    embedded: true
models:
  - name: paced
    triton: {name: paced}
    endpoints: [here]
    context_tokens: 16777216
    max_output_tokens: 1000000
    tokenizer: bytes
"""


def paced_fleet(ports: Mapping[str, str]) -> Fleet:
    """The fleet of one embedded server, on the ports that the fleet file's variables name."""
    return parse_fleet(FLEET, "the fleet of the model paced", str(MODELS), ports)


def by(road: Road, fleet: Fleet) -> Fleet:
    """The same fleet, reached by one road."""
    endpoints = tuple(msgspec.structs.replace(one, transport=road) for one in fleet.endpoints)
    return msgspec.structs.replace(fleet, endpoints=endpoints)


def order(**wishes: object) -> str:
    """A prompt; the wishes are those of `Order` in the model."""
    return json.dumps(wishes)


def told(fleet: Fleet, name: str) -> float:
    """One of the model's own numbers."""
    url = fleet.endpoints[0].metrics
    assert url is not None
    with urllib.request.urlopen(url, timeout=10) as response:
        lines = response.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(name + "{")).rpartition(" ")[2])


class Served:
    """The model through a router of its own."""

    def __init__(self, fleet: Fleet, timeouts: Timeouts) -> None:
        self.health = Health(fleet)
        self.router = Router(fleet, self.health, timeouts)
        self.model = load_models(fleet)["paced"]

    async def open(self, prompt: str, tokens: int = 5) -> Choice:
        """A generation whose first token is there."""
        return await self.router.open(self.model, prompt, Asked(Sampling(), tokens, None), 0, [])

    async def answer(self, prompt: str, tokens: int = 5) -> list[Delta]:
        """All deltas of one generation."""
        choice = await self.open(prompt, tokens)
        try:
            return await rest(choice)
        finally:
            choice.close()

    def ready(self) -> bool:
        """Whether the model has been seen to be served."""
        return self.health.ready("here", "paced")


async def rest(choice: Choice) -> list[Delta]:
    """All deltas that are left."""
    deltas: list[Delta] = []
    while more := await choice.read():
        deltas += more
    return deltas
