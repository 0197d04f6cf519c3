"""What a tree of processes has used, read from /proc (Linux)."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_IDLE, _IOWAIT = 3, 4  # fields of the first line of /proc/stat, behind its name
_UTIME, _STIME = 11, 12  # fields of /proc/PID/stat, counted from the one behind the name in brackets


def tree(pid: int) -> list[int]:
    """The process and all of its living descendants, by id."""
    found = [pid]
    for parent in found:  # grows while it is walked
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):  # the thread has ended meanwhile
                found += [int(child) for child in children.read_text().split()]
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time that the living ones among `pids` have used since they began; resolution 1/100 s."""
    ticks = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[_UTIME]) + int(fields[_STIME])
    return ticks / _TICKS_A_SECOND


def machine_cpu_seconds() -> float:
    """CPU time that everything on this machine has used since it began."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[_IDLE] - fields[_IOWAIT]) / _TICKS_A_SECOND


def peak_memory_mb(pids: Iterable[int]) -> float:
    """The sum of each process's largest resident size so far, in MiB; pages that they share are counted for each."""
    kib = 0
    for pid in pids:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    kib += int(line.split()[1])
    return kib / 1024
