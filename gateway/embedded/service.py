"""What the supervisor must know of a program to run it, and the pure part of deciding when to run it again."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

BACKOFF_FIRST_S = 0.5
BACKOFF_MOST_S = 30.0
HEALTHY_S = 60.0


async def _yes() -> bool:
    return True


def _nothing() -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Service:
    """A program, how to see that it works, and what to say when it does not."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """All of it; nothing is inherited beside."""
    log: Path
    """Takes standard output and standard error."""
    ready: Callable[[], Awaitable[bool]] = _yes
    """Asked every few milliseconds from the start on, until it says yes."""
    ready_within_s: float = 30.0
    stop_within_s: float = 5.0
    """After SIGTERM; then SIGKILL."""
    clear: Callable[[], None] = _nothing
    """Clears away what a killed life left behind: called before each start and after the last end."""
    illness: Callable[[int, "LogReader"], str | None] = field(default=lambda pid, log: None)
    """Asked four times a second while process `pid` lives: why it is of no use any more, or None."""
    decisive: Callable[[str], str] = lambda text: last_line(text)
    """The line of its log (of this life) that tells why it ended."""


class LogReader:
    """One life's part of a log file: what was written since `start`, in pieces as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = path.stat().st_size if path.exists() else 0
        self._read = self._start

    def new_text(self) -> str:
        """What has been written since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        return data.decode(errors="replace")

    def text(self, most_bytes: int = 1 << 20) -> str:
        """All of this life's text, or the first megabyte of it."""
        with self._path.open("rb") as file:
            file.seek(self._start)
            return file.read(most_bytes).decode(errors="replace")


class Backoff:
    """How long to wait before the next start: 0.5 s, doubling to 30 s, from the beginning after a healthy minute."""

    def __init__(self) -> None:
        self._next_s = BACKOFF_FIRST_S

    def after(self, lived_s: float) -> float:
        """The wait in seconds after a life of `lived_s` seconds (0 for a start that failed)."""
        if lived_s >= HEALTHY_S:
            self._next_s = BACKOFF_FIRST_S
        wait, self._next_s = self._next_s, min(2 * self._next_s, BACKOFF_MOST_S)
        return wait


def last_line(text: str) -> str:
    """The last line that says anything."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
