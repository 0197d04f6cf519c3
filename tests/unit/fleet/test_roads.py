"""The router takes the road that the fleet file names, and loads gRPC only for whom it serves."""

import subprocess
import sys

from gateway.fleet.file import parse_fleet
from gateway.fleet.health import Health
from gateway.fleet.router import Router
from gateway.fleet.transports.client import Timeouts
from gateway.fleet.transports.grpc import GrpcTransport
from gateway.fleet.transports.http import HttpTransport

FLEET = """
apiVersion: catflap/v1
kind: Fleet
endpoints:
  - {name: a, http: "http://127.0.0.1:8000", grpc: "127.0.0.1:8001"}
  - {name: b, http: "http://127.0.0.1:8000", grpc: "[::1]:8001", transport: grpc}
models:
  - {name: m, triton: {name: m}, endpoints: [a, b], context_tokens: 9, max_output_tokens: 9, tokenizer: bytes}
"""


async def test_each_endpoint_is_reached_by_its_own_road() -> None:
    fleet = parse_fleet(FLEET, "f", ".", {})
    router = Router(fleet, Health(fleet), Timeouts(1, 1, 1))
    assert isinstance(router._transports["a"], HttpTransport)
    assert isinstance(router._transports["b"], GrpcTransport)
    await router.close()


def test_a_gateway_whose_fleet_speaks_http_never_loads_grpc() -> None:
    code = "import sys, gateway.app; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
