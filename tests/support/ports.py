"""Free ports, and an environment that has nothing of the caller's `CATFLAP_*`."""

import os
import random
import socket
from pathlib import Path

PORTS_BELOW_CLIENTS = (20_000, 32_000)

PORTS = (
    "CATFLAP_PORT",
    "CATFLAP_ADMIN_PORT",
    "CATFLAP_METRICS_PORT",
    "CATFLAP_ADMIN_METRICS_PORT",
    "CATFLAP_WORK_METRICS_PORT",
    "CATFLAP_TRITON_PORT",
    "CATFLAP_TRITON_GRPC_PORT",
    "CATFLAP_TRITON_METRICS_PORT",
)
"""Every variable that names a port."""


def own_environment(folder: Path) -> dict[str, str]:
    """An environment with a data directory and ports of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CATFLAP_")}
    ports = {name: str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    return {**clean, **ports, "CATFLAP_DATA_DIR": str(folder / "var")}


def free_ports(number: int, bus: int = 0) -> list[int]:
    """Ports that were free a moment ago, below those that the kernel gives to clients: one of them could be lent to any
    connection on this machine before our program takes it. `bus`: the port so much higher is free and below them too.
    """
    found: list[int] = []
    first, end = PORTS_BELOW_CLIENTS
    while len(found) < number:
        port = random.randrange(first, end - bus)
        if port not in found and is_free(port) and (not bus or is_free(port + bus)):
            found.append(port)
    return found


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
