"""The composition root: reads the settings, makes the parts, hands them to each other. Nothing else does."""

import asyncio
import gc
import os
import secrets
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.dataplane.app import DataPlane
from gateway.dataplane.limits import Plans
from gateway.dataplane.services import Bounds, Secrets, Services
from gateway.dataplane.spreads import Spreads
from gateway.evidence.seal import Seal
from gateway.evidence.writer import Writer
from gateway.fleet.file import read_fleet
from gateway.fleet.health import Health
from gateway.fleet.models import Served, load_models, load_tensor_models, text_models
from gateway.fleet.router import Router
from gateway.fleet.transports.client import Timeouts
from gateway.identity.directory import Directory
from gateway.identity.issuers import read_issuers
from gateway.identity.keyrings import keys_of
from gateway.identity.pepper import derived
from gateway.identity.tokens import Verifier
from gateway.quota.connection import RedisUnavailable
from gateway.quota.gateways import Gateways
from gateway.quota.keeper import Quota
from gateway.quota.local import LocalLimits
from gateway.quota.open import open_redis
from gateway.rules.inforce import InForce
from gateway.settings import Settings
from gateway.storage.budgets import spent
from gateway.storage.database import Database, connect
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
    health = Health(fleet)
    models: dict[str, Served] = {**load_models(fleet), **load_tensor_models(fleet, health)}
    plans = Plans.read(settings.policies / "plans")
    for plan, model in plans.unserved(models):
        structlog.get_logger().warning("plan_limits_a_model_that_is_not_served", plan=plan, model=model)
    issuers = [(issuer, keys_of(issuer, settings.policies)) for issuer in read_issuers(settings.policies)]
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
        old_pepper=settings.old_pepper_bytes(),
        verifier=Verifier(issuers, size=settings.directory_cache_size) if issuers else None,
    )
    policies = InForce(
        database, settings.policies, settings.redis(), settings.data_dir, timeout_s=settings.database_timeout_s
    )
    evidence = Writer(
        database, Seal(settings.evidence_secrets()), days=settings.evidence_days, timeout_s=settings.database_timeout_s
    )
    timeouts = Timeouts(settings.connect_timeout_s, settings.first_token_timeout_s, settings.token_timeout_s)
    services = Services(
        bounds=Bounds(settings.max_body_bytes, settings.body_timeout_s, settings.request_timeout_s),
        pepper=pepper,
        directory=directory,
        trusted_proxies=settings.trusted_networks(),
        plans=plans,
        models=models,
        health=health,
        router=Router(fleet, health, timeouts),
        redis=redis,
        quota=Quota(
            redis,
            settings.partitions,
            spent=partial(spent_or_unavailable, database),
            local=local,
            on_late=metrics.settlements_late.inc,
        ),
        tally=Tally(),
        access_log=AccessLog(enabled=settings.access_log),
        policies=policies,
        secrets=Secrets(derived(pepper, "rollout"), derived(pepper, "canary")),
        evidence=evidence,
        spreads=Spreads(database, text_models(models), timeout_s=settings.database_timeout_s),
    )
    await redis.start()
    await policies.start()
    background = [
        _essential(asyncio.create_task(work))
        for work in (
            health.watch(),
            services.quota.keep_leases(),
            services.quota.keep_confirmed(),
            gateways.keep_beating(),
            services.tally.keep_folding(),
            _keep_gauges(services),
            directory.keep_moving_keys(),
            policies.keep(),
            services.spreads.keep(),
            evidence.keep_writing(),
            *(keys.keep() for _, keys in issuers),
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
        await evidence.close()
        await directory.close()
        for _, keys in issuers:
            await keys.close()
        await database.close()
        services.tally.fold()
        services.access_log.close()


async def spent_or_unavailable(database: Database, wanted: Sequence[tuple[str, str]], month: int) -> Sequence[int]:
    """The ledger's word on budgets that Redis does not know. Raises RedisUnavailable where the ledger is away too: then
    nobody knows them, and nothing is admitted under them."""
    try:
        return await spent(database, wanted, month)
    except (SQLAlchemyError, OSError, TimeoutError) as problem:
        raise RedisUnavailable(f"budgets are not known: database {type(problem).__name__}") from problem


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


YOUNG_OBJECTS = 25_000
"""Requests under way and settlements that wait for the ledger are young and no garbage: the collector's first round is
worth its walk through them when it comes after hundreds of requests, not after a few (Python's 700)."""


def _settle_garbage() -> None:
    """What start-up made lives as long as the process: take it out of the collector's rounds, which would otherwise
    walk through all of it in the middle of requests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
