"""What the kernel tells of processes in /proc: whose children they are, whether they live, and whether they work."""

import os
from pathlib import Path

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
DEAD = ("Z", "X")
STOPPED = "T"
"""By a signal. A process under a debugger is "t", and its owner's business."""


def children(pid: int) -> list[int]:
    """The processes that any thread of `pid` has started and nobody has waited for."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text().split())
        except OSError:  # the thread, or all of it, has ended since
            continue
    return found


def lists_children(pid: int) -> bool:
    """False when it has just ended, or when the kernel does not list children."""
    return Path(f"/proc/{pid}/task/{pid}/children").exists()


def lives(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in DEAD


def stopped(pid: int) -> bool:
    """Whether a signal has stopped it: it lives, keeps its connections, and does nothing."""
    return _stat(pid)[:1] == [STOPPED]


def cpu_seconds(pid: int) -> float:
    """Processor time that it and its children have used so far; 0 when it is gone."""
    used = 0.0
    for member in (pid, *children(pid)):
        if fields := _stat(member):
            used += (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
    return used


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state (proc(5)'s third) on; none when there is no process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
