"""`catflap serve`: the data plane, alone."""

import multiprocessing
import os
import sys
import tempfile
from typing import Annotated

import typer
import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from uvicorn.supervisors import Multiprocess

from gateway.app import create_dataplane
from gateway.commands.console import fail, read_settings
from gateway.commands.listen import listen, serve_metrics
from gateway.dataplane.app import DataPlane
from gateway.dataplane.limits import Plans
from gateway.dataplane.server import BoundedProtocol
from gateway.embedded.launcher import die_with_parent
from gateway.fleet.file import FleetError, read_fleet
from gateway.fleet.models import load_models
from gateway.identity.issuers import IssuerError, read_issuers
from gateway.identity.keyrings import keys_of
from gateway.limits.plans import PlanError
from gateway.settings import Settings
from gateway.storage.database import ASYNC_DRIVERS, driver_url
from gateway.telemetry import log


def serve(
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default CATFLAP_WORKERS.")] = None,
) -> None:
    """Run the data plane."""
    settings = read_settings()
    log.configure(settings.log_level)
    _check(settings)
    count = workers or settings.workers
    listener = listen(settings.host, settings.port, "CATFLAP_PORT")
    config = uvicorn.Config(
        "gateway.commands.serve:worker",
        factory=True,
        workers=count,
        loop="uvloop",
        http=BoundedProtocol,
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
        serve_metrics(settings.metrics_host, settings.metrics_port, "CATFLAP_METRICS_PORT")
        server.run(sockets=[listener])
        sys.exit(0 if server.started else 1)
    with tempfile.TemporaryDirectory(prefix="catflap-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        serve_metrics(settings.metrics_host, settings.metrics_port, "CATFLAP_METRICS_PORT", registry)
        Multiprocess(config, sockets=[listener]).run()


def worker() -> DataPlane:
    """One worker's app (uvicorn calls this in each of them). A worker does not outlive a parent that was killed."""
    if (parent := multiprocessing.parent_process()) is not None and parent.pid is not None:
        die_with_parent(parent.pid)
    return create_dataplane()


def _check(settings: Settings) -> None:
    """Read the files and addresses once here, so that a mistake in one is told in one sentence, before any worker
    starts."""
    try:
        driver_url(settings.database(), ASYNC_DRIVERS)
    except ValueError as problem:
        fail(f"CATFLAP_DATABASE_URL is no use: {problem}.")
    try:
        settings.pepper_bytes()
    except OSError as problem:
        fail(f"The data directory {settings.data_dir} cannot be used ({problem.strerror}): set CATFLAP_DATA_DIR.")
    try:
        load_models(read_fleet(settings.fleet))
        Plans.read(settings.policies / "plans")
        for issuer in read_issuers(settings.policies):
            keys_of(issuer, settings.policies)
    except (FleetError, PlanError, IssuerError) as problem:
        fail(str(problem))
