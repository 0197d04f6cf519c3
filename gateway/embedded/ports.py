"""Which ports `catflap up` is going to need, and whether they are free."""

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.embedded.problem import StartError
from gateway.fleet.file import Endpoint
from gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class Port:
    """One address that a child is going to listen on."""

    purpose: str
    host: str
    port: int
    remedy: str
    """What to set to move it."""


def needed_ports(settings: Settings, embedded: Iterable[Endpoint]) -> list[Port]:
    """Every port of this run."""
    ports = [*serve_ports(settings), *admin_ports(settings), *work_ports(settings)]
    for endpoint in embedded:
        ports += triton_ports(endpoint)
    return ports


def serve_ports(settings: Settings) -> tuple[Port, ...]:
    """The data plane's."""
    return _used(
        Port("the data plane", settings.host, settings.port, "CATFLAP_PORT"),
        Port("the data plane's metrics", settings.metrics_host, settings.metrics_port, "CATFLAP_METRICS_PORT"),
    )


def admin_ports(settings: Settings) -> tuple[Port, ...]:
    """The admin plane's."""
    metrics = (settings.metrics_host, settings.admin_metrics_port)
    return _used(
        Port("the admin plane", settings.admin_host, settings.admin_port, "CATFLAP_ADMIN_PORT"),
        Port("the admin plane's metrics", *metrics, "CATFLAP_ADMIN_METRICS_PORT"),
    )


def work_ports(settings: Settings) -> tuple[Port, ...]:
    """The background readers'."""
    metrics = (settings.metrics_host, settings.work_metrics_port)
    return _used(Port("the readers' metrics", *metrics, "CATFLAP_WORK_METRICS_PORT"))


def triton_ports(endpoint: Endpoint) -> tuple[Port, ...]:
    """An embedded endpoint's."""
    ports = [Port("Triton", *endpoint.address, "CATFLAP_TRITON_PORT")]
    if endpoint.grpc_address is not None:
        ports.append(Port("Triton's gRPC", *endpoint.grpc_address, "CATFLAP_TRITON_GRPC_PORT"))
    if endpoint.metrics is not None:
        parts = urlsplit(endpoint.metrics)
        ports.append(Port("Triton's metrics", parts.hostname or "", parts.port or 80, "CATFLAP_TRITON_METRICS_PORT"))
    return _used(*ports)


def _used(*ports: Port) -> tuple[Port, ...]:
    """A port of 0 is none."""
    return tuple(port for port in ports if port.port)


def check_ports(ports: Iterable[Port]) -> None:
    """Raises StartError for the first port that two of them share, or that cannot be listened on."""
    seen: dict[int, Port] = {}
    for port in ports:
        if other := seen.get(port.port):
            raise StartError(
                f"Port {port.port} is set for both {other.purpose} and {port.purpose}: set {other.remedy} or "
                f"{port.remedy} to another port."
            )
        seen[port.port] = port
        _check(port)


def _check(port: Port) -> None:
    family = socket.AF_INET6 if ":" in port.host else socket.AF_INET
    with socket.socket(family) as listener:
        # As the servers do: connections of an earlier run that are still in TIME_WAIT are no hindrance.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((port.host, port.port))
        except OSError as problem:
            raise StartError(_sentence(port, problem)) from problem


def _sentence(port: Port, problem: OSError) -> str:
    if problem.errno == errno.EADDRINUSE:
        return (
            f"Port {port.port} on {port.host}, which {port.purpose} needs, is taken: stop the program that listens "
            f"there, or set {port.remedy} to a free port."
        )
    return f"Nothing can listen on {port.host}:{port.port} for {port.purpose} ({problem.strerror}): set {port.remedy}."
