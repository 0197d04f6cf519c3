"""The last good files, kept on this machine's disk: what a gateway starts on where the database or the directory is no
use."""

import contextlib
import os
import tempfile
from pathlib import Path

import msgspec

from gateway.storage.policies import Files

NAME = "policies-last-good.json"
MAX_BYTES = 64 * 2**20


class LastGood(msgspec.Struct, frozen=True):
    """What was in force."""

    version: str
    containment: bool
    files: Files


def keep(folder: Path, good: LastGood) -> None:
    """Written whole or not at all, readable by this user alone: a covert rule is nobody else's business. Raises
    OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=folder, prefix=f"{NAME}.")  # mode 600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(good))
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(folder / NAME)
    except OSError:
        with contextlib.suppress(OSError):
            Path(draft).unlink()
        raise


def recall(folder: Path) -> LastGood | None:
    """None where nothing was kept. Raises OSError, msgspec.DecodeError."""
    try:
        with (folder / NAME).open("rb") as file:
            return msgspec.json.decode(file.read(MAX_BYTES), type=LastGood)
    except FileNotFoundError:
        return None
