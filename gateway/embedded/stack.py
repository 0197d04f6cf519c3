"""Everything that `catflap up` runs on this machine, in the order in which each part needs the one before."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from gateway.embedded.devkey import development_key
from gateway.embedded.lock import only_one
from gateway.embedded.ports import check_ports, needed_ports
from gateway.embedded.probe import http_ok, listens, reachable
from gateway.embedded.problem import StartError
from gateway.embedded.redis import redis_service
from gateway.embedded.service import Service
from gateway.embedded.supervisor import Say, Supervisor
from gateway.embedded.triton import triton_service
from gateway.fleet.file import Fleet, FleetError, read_fleet
from gateway.settings import Settings
from gateway.storage.migrate import migrate

GATEWAY_READY_S = 30.0
GATEWAY_STOP_S = 5.0  # on top of the time that running streams get


@dataclass(frozen=True, slots=True)
class Running:
    """What a person needs to use it."""

    url: str
    admin_url: str
    key: str
    model: str


@asynccontextmanager
async def running(settings: Settings, say: Say) -> AsyncIterator[Running]:
    """Everything runs inside the block; at its end, however it ends, nothing of it is left.

    `say` gets a line a step, with its seconds. Raises StartError with the one sentence to show.
    """
    fleet = _fleet(settings)
    embedded = [endpoint for endpoint in fleet.endpoints if endpoint.embedded]
    with only_one(settings.data_dir):
        check_ports(needed_ports(settings, embedded))
        # All are made before any is started: what is missing on this machine is said at once.
        redis = [] if settings.redis_url else [redis_service(settings)]
        triton = [triton_service(fleet, endpoint, settings.data_dir) for endpoint in embedded]
        async with AsyncExitStack() as life:
            await _start(life, redis, say)
            key = await _prepare_database(settings, say)
            await _start(life, triton, say)
            await _start(life, gateway_services(settings), say)
            yield Running(
                url=_url(settings.host, settings.port),
                admin_url=_url(settings.admin_host, settings.admin_port),
                key=key,
                model=fleet.models[0].name,
            )


def gateway_services(settings: Settings) -> list[Service]:
    """Catflap's own processes. They read the same environment as this one, in the same directory."""
    log = settings.data_dir.resolve() / "log"

    def service(name: str, words: tuple[str, ...], ready: Callable[[], Awaitable[bool]]) -> Service:
        return Service(
            name=f"catflap {' '.join(words)}",
            # -P: the directory we happen to be in must not lend us its modules.
            command=(sys.executable, "-P", "-c", "from gateway.cli import main; main()", *words),
            environment=dict(os.environ),
            log=log / f"{name}.log",
            ready=ready,
            ready_within_s=GATEWAY_READY_S,
            stop_within_s=settings.drain_timeout_s + GATEWAY_STOP_S,
        )

    services = [
        service("serve", ("serve",), lambda: http_ok(settings.host, settings.port, "/readyz")),
        service("admin", ("admin",), lambda: http_ok(settings.admin_host, settings.admin_port, "/readyz")),
    ]
    if settings.work_metrics_port:
        ready = partial(listens, settings.metrics_host, settings.work_metrics_port)
        return [*services, service("work", ("work", "all"), ready)]
    return [*services, service("work", ("work", "all"), _at_once)]


async def _start(life: AsyncExitStack, services: Sequence[Service], say: Say) -> None:
    """Start them side by side; from now on `life` stops them side by side."""
    supervisors = [Supervisor(service, say) for service in services]
    life.push_async_callback(_all, [supervisor.stop for supervisor in supervisors])
    await _all([partial(_start_one, supervisor, say) for supervisor in supervisors])


async def _start_one(supervisor: Supervisor, say: Say) -> None:
    with _step(supervisor.service.name, say):
        await supervisor.start()


async def _all(actions: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Do them side by side and wait for all; the first that fails cancels the others, and is what is raised."""

    async def do(action: Callable[[], Awaitable[None]]) -> None:
        await action()

    try:
        async with asyncio.TaskGroup() as group:
            for action in actions:
                group.create_task(do(action))
    except* StartError as problems:
        raise problems.exceptions[0] from None


async def _prepare_database(settings: Settings, say: Say) -> str:
    """Bring it to head; the development key."""
    with _step("database", say):
        try:
            await asyncio.to_thread(migrate, settings.database())
            return await development_key(settings)
        except (SQLAlchemyError, ValueError, OSError) as problem:
            reason = str(problem).partition("\n")[0]
            raise StartError(f"The database cannot be used: {reason} (CATFLAP_DATABASE_URL).") from problem


def _fleet(settings: Settings) -> Fleet:
    try:
        return read_fleet(settings.fleet)
    except FleetError as problem:
        raise StartError(str(problem)) from problem


@contextmanager
def _step(name: str, say: Say) -> Iterator[None]:
    began = time.monotonic()
    yield
    say(f"{name:<18} ready after {time.monotonic() - began:4.1f} s")


async def _at_once() -> bool:
    return True


def _url(host: str, port: int) -> str:
    host = reachable(host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
