"""`catflap serve` and `catflap admin`: the two planes, each alone."""

import os
import socket
import sys
import tempfile
from typing import Annotated

import typer
import uvicorn
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector
from uvicorn.supervisors import Multiprocess

from gateway.admin.app import create as create_admin
from gateway.dataplane.limits import Plans
from gateway.fleet.file import FleetError, read_fleet
from gateway.fleet.models import load_models
from gateway.limits.plans import PlanError
from gateway.settings import Settings
from gateway.telemetry import log


def serve(
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default CATFLAP_WORKERS.")] = None,
) -> None:
    """Run the data plane."""
    settings = Settings()
    log.configure(settings.log_level)
    _check(settings)
    count = workers or settings.workers
    listener = _listen(settings.host, settings.port, "CATFLAP_PORT")
    config = uvicorn.Config(
        "gateway.app:create_dataplane",
        factory=True,
        workers=count,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        backlog=2048,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=round(settings.drain_timeout_s),
    )
    server = uvicorn.Server(config)
    if count == 1:
        _serve_metrics(settings.metrics_host, settings.metrics_port, "CATFLAP_METRICS_PORT")
        server.run(sockets=[listener])
        sys.exit(0 if server.started else 1)
    with tempfile.TemporaryDirectory(prefix="catflap-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        _serve_metrics(settings.metrics_host, settings.metrics_port, "CATFLAP_METRICS_PORT", registry)
        Multiprocess(config, sockets=[listener]).run()


def admin() -> None:
    """Run the admin plane."""
    settings = Settings()
    log.configure(settings.log_level)
    listener = _listen(settings.admin_host, settings.admin_port, "CATFLAP_ADMIN_PORT")
    _serve_metrics(settings.metrics_host, settings.admin_metrics_port, "CATFLAP_ADMIN_METRICS_PORT")
    config = uvicorn.Config(
        create_admin(settings.database(), settings.redis()),
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    sys.exit(0 if server.started else 1)


def _check(settings: Settings) -> None:
    """Read the files once here, so that a mistake in one is told in one sentence, before any worker starts."""
    try:
        load_models(read_fleet(settings.fleet))
        Plans.read(settings.policies / "plans")
    except (FleetError, PlanError) as problem:
        _stop(str(problem))


def _listen(host: str, port: int, variable: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as problem:
        _stop(f"{host}:{port} cannot be listened on ({problem.strerror}). Free it, or set {variable}.")
    listener.set_inheritable(True)
    return listener


def _serve_metrics(host: str, port: int, variable: str, registry: CollectorRegistry | None = None) -> None:
    if not port:
        return
    try:
        if registry is None:
            start_http_server(port, host)
        else:
            start_http_server(port, host, registry)
    except OSError as problem:
        _stop(f"{host}:{port} cannot be listened on for metrics ({problem.strerror}). Free it, or set {variable}.")


def _stop(sentence: str) -> None:
    typer.echo(f"catflap: {sentence}", err=True)
    raise typer.Exit(1)
