"""Addresses that a plane listens on: taken, or refused in one sentence."""

import socket

from prometheus_client import CollectorRegistry, start_http_server

from gateway.commands.console import fail


def listen(host: str, port: int, variable: str) -> socket.socket:
    """A bound socket; `variable` is what moves it. Ends the process with a sentence where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as problem:
        fail(f"{host}:{port} cannot be listened on ({problem.strerror}). Free it, or set {variable}.")
    listener.set_inheritable(True)
    return listener


def serve_metrics(host: str, port: int, variable: str, registry: CollectorRegistry | None = None) -> None:
    """Serve Prometheus's values (of `registry`, or of this process); port 0: nowhere."""
    if not port:
        return
    try:
        if registry is None:
            start_http_server(port, host)
        else:
            start_http_server(port, host, registry)
    except OSError as problem:
        fail(f"{host}:{port} cannot be listened on for metrics ({problem.strerror}). Free it, or set {variable}.")
