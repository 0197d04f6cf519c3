"""`catflap admin`: the admin plane, alone. Its module is its own: the data plane need not import what it needs."""

import sys

import uvicorn
from starlette.applications import Starlette

from gateway.admin.app import create
from gateway.commands.console import fail, read_settings
from gateway.commands.listen import listen, serve_metrics
from gateway.settings import Settings
from gateway.telemetry import log


def plane(settings: Settings) -> Starlette:
    """The app; what is wrong with a setting ends the process with one sentence."""
    try:
        token, pepper = settings.admin_token_bytes(), settings.pepper_bytes()
        secrets = settings.evidence_secrets()
    except OSError as problem:
        fail(f"The data directory {settings.data_dir} cannot be used ({problem.strerror}): set CATFLAP_DATA_DIR.")
    try:
        return create(
            settings.database(),
            settings.redis(),
            token=token,
            pepper=pepper,
            partitions=settings.partitions,
            plans=settings.policies / "plans",
            evidence_secrets=secrets,
        )
    except ValueError as problem:
        fail(f"CATFLAP_DATABASE_URL or CATFLAP_REDIS_URL is no use: {problem}.")


def admin() -> None:
    """Run the admin plane."""
    settings = read_settings()
    log.configure(settings.log_level)
    listener = listen(settings.admin_host, settings.admin_port, "CATFLAP_ADMIN_PORT")
    serve_metrics(settings.metrics_host, settings.admin_metrics_port, "CATFLAP_ADMIN_METRICS_PORT")
    config = uvicorn.Config(
        plane(settings),
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws="none",
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    sys.exit(0 if server.started else 1)
