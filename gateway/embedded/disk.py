"""Room for what Catflap's parts write, and the sentence for when there is none.

A full disk shows in many places (Redis cannot append, SQLite cannot write, logs stop), each with words of its own. So
we look at the disk itself, say it once for all of them, and say when it is over: every part goes on by itself then.
Shared memory is the same to Triton's python backend, which refuses a request that does not fit in words that no client
gets to see.
"""

import asyncio
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gateway.embedded.problem import StartError

LEAST_FREE = 16 << 20
"""Bytes. Triton's folder takes a third of it; below this, Redis's append-only file has minutes left under load. Of
shared memory each model takes 1 MiB, and more for large requests."""
LOOK_S = 1.0
FULL = (errno.ENOSPC, errno.EDQUOT)


class Place(NamedTuple):
    """Where room can run out, and the words for it."""

    folder: Path
    name: str
    remedy: str
    """Beside freeing some, to stand after "or"."""
    effect: str
    """Of its being full, to stand after "once it is full"."""


def disk(folder: Path) -> Place:
    """The disk under the data directory."""
    return Place(
        folder,
        "disk",
        "set CATFLAP_DATA_DIR to a directory on another disk",
        "Redis takes no writes and requests are refused with 503, until there is room",
    )


def shared_memory(folder: Path) -> Place:
    """The file system in memory through which Triton and its models speak."""
    return Place(
        folder,
        "shared memory",
        "give it more (docker run --shm-size=1g, or mount -o remount,size=1g)",
        "Triton refuses requests that do not fit, which clients see as 502, until there is room",
    )


def check_space(place: Place, least: int = LEAST_FREE) -> None:
    """Raises StartError when fewer than `least` bytes are left at the place, whose folder exists."""
    left = free_bytes(place.folder)
    if left < least:
        raise StartError(
            f"The {place.name} under {place.folder} has {_mib(left)} MiB left, and Catflap needs {_mib(least)}: free "
            f"some, or {place.remedy}."
        )


async def watch_space(place: Place, say: Callable[[str], None], least: int = LEAST_FREE) -> None:
    """Say once when it gets short and once when it is over; never returns."""
    short = False
    while True:
        left = free_bytes(place.folder)
        name, where = place.name.capitalize(), f"under {place.folder}"
        if left < least and not short:
            short = True
            say(f"{name}: {_mib(left)} MiB left {where}: free some; once it is full, {place.effect}")
        elif short and left >= 2 * least:  # twice: at the brink it would be said every second
            short = False
            say(f"{name}: there is room again {where} ({_mib(left)} MiB)")
        await asyncio.sleep(LOOK_S)


def free_bytes(folder: Path) -> int:
    """What this user may still write there; when nobody can tell, as if there were enough."""
    try:
        found = os.statvfs(folder)
    except OSError:  # the folder is gone: others say so
        return 1 << 62
    return found.f_bavail * found.f_frsize


def cannot_write(folder: Path, problem: OSError) -> str:
    """The sentence for an OSError met while writing there."""
    # copytree gathers its errors in one, which has their texts and no number.
    gathered = str(problem.args[0]) if isinstance(problem, shutil.Error) else ""
    if problem.errno in FULL or any(os.strerror(number) in gathered for number in FULL):
        return (
            f"The disk under {folder} is full: free some space there, or set CATFLAP_DATA_DIR to a directory on "
            f"another disk."
        )
    reason = problem.strerror or type(problem).__name__
    return (
        f"{problem.filename or folder} cannot be written ({reason}): mend that, or set CATFLAP_DATA_DIR to another "
        f"directory."
    )


def _mib(number: int) -> int:
    return number >> 20
