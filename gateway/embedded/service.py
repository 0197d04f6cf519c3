"""What the supervisor must know of a program to run it and to see that it works."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.embedded.ports import Port


async def _yes() -> bool:
    return True


def _nothing() -> None:
    return None


async def _no_trouble() -> str | None:
    return None


async def _answers(pid: int) -> str | None:
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
    ports: tuple[Port, ...] = ()
    """What it listens on: looked at before each start, so that another program's answer is never taken for its own."""
    stop_within_s: float = 5.0
    """After SIGTERM; then SIGKILL."""
    clear: Callable[[], None] = _nothing
    """Clears away what a killed life left behind: called before each start and after the last end."""
    illness: Callable[[int, "LogReader"], str | None] = field(default=lambda pid, log: None)
    """Asked four times a second while process `pid` lives: why it is of no use any more, or None."""
    look: Callable[[int], Awaitable[str | None]] = _answers
    """Asked every second while process `pid` lives: what of it does not answer, or None; silence is an answer too. The
    question must be one that heavy work does not keep waiting: two in a row unanswered have the program killed."""
    trouble: Callable[[], Awaitable[str | None]] = _no_trouble
    """What it cannot do although it lives and answers, or None; a restart would not mend it, so it is only said."""
    decisive: Callable[[str], str] = lambda text: last_line(text)
    """The line of its log (of this life) that tells why it ended."""


class LogReader:
    """One life's part of a log file: what was written since `start`, in pieces as it grows.

    Someone may tidy the file away while its program writes it: then there is nothing to read, and no error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = path.stat().st_size if path.exists() else 0
        self._read = self._start

    def new_text(self) -> str:
        """What has been written since the last call."""
        data = self._from(self._read, -1)
        self._read += len(data)
        return data.decode(errors="replace")

    def text(self, most_bytes: int = 1 << 20) -> str:
        """All of this life's text, or the first megabyte of it."""
        return self._from(self._start, most_bytes).decode(errors="replace")

    def _from(self, position: int, most_bytes: int) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(position)
                return file.read(most_bytes)
        except OSError:
            return b""


def last_line(text: str) -> str:
    """The last line that says anything."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
