"""`catflap work` and `catflap migrate`."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer
from prometheus_client import start_http_server
from sqlalchemy.exc import SQLAlchemyError

from gateway.commands.console import BAD_USAGE, fail, read_settings
from gateway.settings import Settings
from gateway.storage import migrate as schema
from gateway.storage.database import connect
from gateway.telemetry import log
from gateway.workers.ledger import run_ledger
from gateway.workers.reclaimer import run_reclaimer
from gateway.workers.retention import run_retention
from gateway.workers.runner import Worker, run_workers

POLITENESS = 5
"""Added to the niceness of these processes: where they share a machine with gateways, books wait before clients do. It
leaves them a third of what a gateway gets, enough for the events of one."""


class Which(StrEnum):
    """The background readers, by name."""

    LEDGER = "ledger"
    RECLAIMER = "reclaimer"
    RETENTION = "retention"
    ALL = "all"


def work(which: Annotated[Which, typer.Argument(help="Which of them.")] = Which.ALL) -> None:
    """Run the background readers until SIGTERM or Ctrl-C."""
    os.nice(POLITENESS)
    settings = read_settings()
    log.configure(settings.log_level)
    asyncio.run(require_migrated(settings))
    with metrics(settings.metrics_host, settings.work_metrics_port):
        asyncio.run(run_until_signal(chosen(settings, which)))


def migrate() -> None:
    """Bring the database to this version's schema. Safe to run twice, and by two at once."""
    settings = read_settings()
    try:
        schema.migrate(settings.database())
    except ValueError as error:
        fail(f"CATFLAP_DATABASE_URL is no use: {error}.", BAD_USAGE)
    except (SQLAlchemyError, OSError) as error:
        fail(f"The database cannot be migrated ({type(error).__name__}): see CATFLAP_DATABASE_URL.")


def chosen(settings: Settings, which: Which) -> dict[str, Worker]:
    """The workers asked for, each ready to be called with the event that stops it."""
    redis, database, partitions = settings.redis(), settings.database(), settings.partitions
    workers: dict[str, Worker] = {
        Which.LEDGER: partial(run_ledger, redis, database, partitions),
        Which.RECLAIMER: partial(run_reclaimer, redis, partitions),
        Which.RETENTION: partial(run_retention, database),
    }
    return workers if which is Which.ALL else {which: workers[which]}


async def run_until_signal(workers: dict[str, Worker]) -> None:
    """SIGTERM or SIGINT lets each finish its batch; a second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        stop.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await run_workers(workers, stop)


async def require_migrated(settings: Settings) -> None:
    """A schema of another version ends the command; a database that is merely away is waited for."""
    try:
        database = connect(settings.database(), timeout_s=settings.database_timeout_s)
    except ValueError as error:
        fail(f"CATFLAP_DATABASE_URL is no use: {error}.", BAD_USAGE)
    try:
        await schema.require_head(database)
    except schema.NotMigrated:
        fail("The database is not at the schema of this version: run `catflap migrate`.")
    except (SQLAlchemyError, OSError):
        return  # the ledger says so, once, and keeps trying
    finally:
        await database.close()


@contextmanager
def metrics(host: str, port: int) -> Iterator[None]:
    """Prometheus's port, for as long as the block runs; 0: none."""
    if port == 0:
        yield
        return
    try:
        server, thread = start_http_server(port, addr=host)
    except OSError:
        fail(f"The metrics port {host}:{port} is taken: set CATFLAP_WORK_METRICS_PORT.")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
