"""`catflap admin`: the admin plane, alone. Its module is its own: the data plane need not import what it needs."""

import sys

import uvicorn

from gateway.admin.app import create
from gateway.commands.console import read_settings
from gateway.commands.listen import listen, serve_metrics
from gateway.telemetry import log


def admin() -> None:
    """Run the admin plane."""
    settings = read_settings()
    log.configure(settings.log_level)
    listener = listen(settings.admin_host, settings.admin_port, "CATFLAP_ADMIN_PORT")
    serve_metrics(settings.metrics_host, settings.admin_metrics_port, "CATFLAP_ADMIN_METRICS_PORT")
    config = uvicorn.Config(
        create(
            settings.database(),
            settings.redis(),
            token=settings.admin_token_bytes(),
            pepper=settings.pepper_bytes(),
            partitions=settings.partitions,
            plans=settings.policies / "plans",
        ),
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    sys.exit(0 if server.started else 1)
