"""An environment that has ports of its own and nothing of the caller's `CATFLAP_*`."""

import os
from pathlib import Path

from lab.ports import free_ports

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
