"""Everything that `catflap up` runs on this machine, in the order in which each part needs the one before."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from sqlalchemy.exc import SQLAlchemyError

from gateway.embedded.devkey import development_key
from gateway.embedded.disk import cannot_write, check_space, disk, shared_memory, watch_space
from gateway.embedded.lock import only_one
from gateway.embedded.ports import Port, admin_ports, check_ports, needed_ports, serve_ports, work_ports
from gateway.embedded.probe import http_answers, http_ok, listens, reachable
from gateway.embedded.problem import StartError
from gateway.embedded.redis import redis_service
from gateway.embedded.service import Service
from gateway.embedded.supervisor import Say, Supervisor
from gateway.embedded.triton import SHARED_MEMORY, triton_service
from gateway.fleet.file import Fleet, FleetError, read_fleet
from gateway.settings import Settings
from gateway.storage.migrate import migrate

Ready = Callable[[], Awaitable[bool]]
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
    say = _lossy(say)
    fleet = _fleet(settings)
    embedded = [endpoint for endpoint in fleet.endpoints if endpoint.embedded]
    with only_one(settings.data_dir):
        places = [disk(settings.data_dir.resolve()), *([shared_memory(SHARED_MEMORY)] if embedded else [])]
        for place in places:
            check_space(place)
        check_ports(needed_ports(settings, embedded))
        # All are made before any is started: what is missing on this machine is said at once.
        redis = [] if settings.redis_url else [redis_service(settings)]
        triton = [triton_service(fleet, endpoint, settings.data_dir) for endpoint in embedded]
        async with AsyncExitStack() as life:
            for place in places:
                watch = asyncio.create_task(watch_space(place, say), name=f"watch the {place.name}")
                life.callback(watch.cancel)
            await _start(life, redis, say)
            key = await _prepare_database(settings, say)
            await _start(life, triton, say)
            await _start(life, gateway_services(settings), say)
            yield Running(
                url=_url(settings.host, settings.port),
                admin_url=_url(settings.admin_host, settings.admin_port),
                key=key,
                model=fleet.served[0].name,
            )


def gateway_services(settings: Settings) -> list[Service]:
    """Catflap's own processes. They read the same environment as this one, in the same directory."""
    log = settings.data_dir.resolve() / "log"

    def service(words: tuple[str, ...], ready: Ready, alive: tuple[str, int, str], ports: tuple[Port, ...]) -> Service:
        return Service(
            name=f"catflap {' '.join(words)}",
            # -P: the directory we happen to be in must not lend us its modules.
            command=(sys.executable, "-P", "-c", "from gateway.cli import main; main()", *words),
            environment=dict(os.environ),
            log=log / f"{words[0]}.log",
            ready=ready,
            ready_within_s=GATEWAY_READY_S,
            stop_within_s=settings.drain_timeout_s + GATEWAY_STOP_S,
            ports=ports,
            look=partial(_unanswered, *alive),
        )

    data, admin = (settings.host, settings.port), (settings.admin_host, settings.admin_port)
    work = (settings.metrics_host, settings.work_metrics_port)
    return [
        service(("serve",), partial(http_ok, *data, "/readyz"), (*data, "/livez"), serve_ports(settings)),
        service(("admin",), partial(http_ok, *admin, "/readyz"), (*admin, "/livez"), admin_ports(settings)),
        service(
            ("work", "all"),
            partial(listens, *work) if settings.work_metrics_port else _at_once,
            (*work, "/metrics"),
            work_ports(settings),
        ),
    ]


async def _unanswered(host: str, port: int, path: str, pid: int) -> str | None:
    """Any answer is one. Without a port there is nothing to ask; a stopped process is seen all the same."""
    if not port or await http_answers(host, port, path):
        return None
    return f"it does not answer {path}"


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
    except ExceptionGroup as problems:  # `except*` wraps what is raised in it, under some Pythons (3.11.2)
        failed, others = problems.split(StartError)
        if failed is None or others is not None:
            raise
        raise failed.exceptions[0] from None


async def _prepare_database(settings: Settings, say: Say) -> str:
    """Bring it to head; the development key."""
    with _step("database", say):
        try:
            await asyncio.to_thread(migrate, settings.database())
            return await development_key(settings)
        except OSError as problem:
            raise StartError(f"The database cannot be used. {cannot_write(settings.data_dir, problem)}") from problem
        except (SQLAlchemyError, ValueError) as problem:
            reason = str(problem).partition("\n")[0]
            raise StartError(f"The database cannot be used: {reason} (CATFLAP_DATABASE_URL).") from problem


def _fleet(settings: Settings) -> Fleet:
    try:
        return read_fleet(settings.fleet)
    except FleetError as problem:
        raise StartError(str(problem)) from problem


def _lossy(say: Say) -> Say:
    """Standard error may be a pipe that nobody reads any more, or a file on the disk that is full. What cannot be said
    is lost; the programs are watched all the same."""

    def told(line: str) -> None:
        with suppress(OSError, ValueError):
            say(line)

    return told


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
