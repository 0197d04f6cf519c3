"""One `catflap up` for one data directory: two would run two Redis servers over one append-only file."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.embedded.disk import cannot_write
from gateway.embedded.problem import StartError


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data directory. The kernel frees it with this process, however that ends; no child inherits it.

    Raises StartError when another process holds it, or when the directory cannot be made or written.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(data_dir / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise StartError(f"The data directory cannot be used. {cannot_write(data_dir, problem)}") from problem
    try:
        _take(handle, data_dir)
        yield
    finally:
        os.close(handle)


def _take(handle: int, data_dir: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as problem:
        holder = os.pread(handle, 20, 0).decode().strip()
        raise StartError(
            f"Another `catflap up`{f' (process {holder})' if holder else ''} runs on the data directory {data_dir}: "
            f"stop it, or set CATFLAP_DATA_DIR to another directory."
        ) from problem
    # For the other's sentence only; a full disk, which refuses it, is told by those who need the room.
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
