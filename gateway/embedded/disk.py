"""Room on the disk under the data directory, and the sentence for when there is none.

A full disk shows in many places (Redis cannot append, SQLite cannot write, logs stop), each with words of its own. So
we look at the disk itself, say it once for all of them, and say when it is over: every part goes on by itself then.
"""

import asyncio
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from gateway.embedded.problem import StartError

LEAST_FREE = 16 << 20
"""Bytes. Triton's folder takes a third of it; below this, Redis's append-only file has minutes left under load."""
LOOK_S = 1.0
FULL = (errno.ENOSPC, errno.EDQUOT)


def check_space(folder: Path, least: int = LEAST_FREE) -> None:
    """Raises StartError when the disk under `folder` (which exists) has fewer bytes left than `least`."""
    left = free_bytes(folder)
    if left < least:
        raise StartError(
            f"The disk under {folder} has {_mib(left)} MiB left, and Catflap needs {_mib(least)}: free some, or set "
            f"CATFLAP_DATA_DIR to a directory on another disk."
        )


async def watch_space(folder: Path, say: Callable[[str], None], least: int = LEAST_FREE) -> None:
    """Say once when it gets short and once when it is over; never returns."""
    short = False
    while True:
        left = free_bytes(folder)
        if left < least and not short:
            short = True
            say(
                f"Disk: {_mib(left)} MiB left under {folder}: free some; once it is full, Redis takes no writes and "
                f"requests are refused with 503, until there is room"
            )
        elif short and left >= 2 * least:  # twice: at the brink it would be said every second
            short = False
            say(f"Disk: there is room again under {folder} ({_mib(left)} MiB)")
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
