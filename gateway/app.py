"""The composition root: reads the settings, makes the parts, hands them to each other. Nothing else does."""

import asyncio
import gc
import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from gateway.dataplane.app import DataPlane
from gateway.dataplane.limits import Plans
from gateway.dataplane.services import Bounds, Services
from gateway.fleet.file import read_fleet
from gateway.fleet.health import Health
from gateway.fleet.models import load_models
from gateway.fleet.router import Router
from gateway.fleet.transports.client import Timeouts
from gateway.identity.directory import Directory
from gateway.quota.gateways import Gateways
from gateway.quota.keeper import Quota
from gateway.quota.local import LocalLimits
from gateway.quota.open import open_redis
from gateway.settings import Settings
from gateway.storage.database import connect
from gateway.telemetry import log, metrics
from gateway.telemetry.log import AccessLog
from gateway.telemetry.metrics import Tally


def create_dataplane() -> DataPlane:
    """The data plane of one worker process, from the environment (the factory that uvicorn calls)."""
    settings = Settings()
    log.configure(settings.log_level)
    return DataPlane(lambda: dataplane_services(settings))


@asynccontextmanager
async def dataplane_services(settings: Settings) -> AsyncIterator[Services]:
    """One worker's services, with their background tasks, for as long as the context lasts."""
    fleet = read_fleet(settings.fleet)
    models, plans = load_models(fleet), Plans.read(settings.policies / "plans")
    database = connect(settings.database(), timeout_s=settings.database_timeout_s)
    redis = open_redis(
        settings.redis(), timeout_s=settings.redis_timeout_ms / 1000, on_dropped=metrics.settlements_dropped.inc
    )
    gateways = Gateways(redis, secrets.token_hex(8))
    local = LocalLimits(lambda: gateways.part) if settings.redis_away == "local" else None
    pepper = settings.pepper_bytes()
    directory = Directory(
        database,
        pepper,
        cache_s=settings.directory_cache_s,
        cache_size=settings.directory_cache_size,
        timeout_s=settings.database_timeout_s,
    )
    health = Health(fleet)
    timeouts = Timeouts(settings.connect_timeout_s, settings.first_token_timeout_s, settings.token_timeout_s)
    services = Services(
        bounds=Bounds(settings.max_body_bytes, settings.body_timeout_s, settings.request_timeout_s),
        pepper=pepper,
        directory=directory,
        plans=plans,
        models=models,
        health=health,
        router=Router(fleet, health, timeouts),
        redis=redis,
        quota=Quota(redis, settings.partitions, local=local, on_late=metrics.settlements_late.inc),
        tally=Tally(),
        access_log=AccessLog(enabled=settings.access_log),
    )
    await redis.start()
    background = [
        _essential(asyncio.create_task(work))
        for work in (
            health.watch(),
            services.quota.keep_leases(),
            services.quota.keep_confirmed(),
            gateways.keep_beating(),
            services.tally.keep_folding(),
            _keep_gauges(services),
        )
    ]
    _settle_garbage()
    try:
        yield services
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await services.router.close()
        gateways.leave()
        await redis.close()
        await directory.close()
        await database.close()
        services.tally.fold()
        services.access_log.close()


def _essential(task: "asyncio.Task[None]") -> "asyncio.Task[None]":
    """A background task that fails takes its worker with it: better a restart than a gateway that renews no leases."""

    def ended(task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (problem := task.exception()) is not None:
            structlog.get_logger().critical("background_task_failed", error=type(problem).__name__)
            os.kill(os.getpid(), signal.SIGTERM)

    task.add_done_callback(ended)
    return task


async def _keep_gauges(services: Services) -> None:
    """Gauges that tell how the parts are, once a second."""
    while True:
        metrics.redis_ready.set(int(services.redis.ready))
        report = services.health.report()
        for model, endpoints in report.items():
            metrics.models_ready.labels(model).set(int("ready" in endpoints.values()))
        await asyncio.sleep(1.0)


def _settle_garbage() -> None:
    """What start-up made lives as long as the process: take it out of the collector's rounds, which would otherwise
    walk through all of it in the middle of requests."""
    gc.collect()
    gc.freeze()
