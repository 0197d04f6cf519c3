"""Run one program: start it, see it work, notice when it does not, start it again, stop it.

Every program is the leader of a session and a process group of its own: a Ctrl-C at the terminal reaches `catflap up`
alone, which then stops its children in order, and what a child leaves behind can be killed with its group. The launcher
binds its life to ours.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gateway.embedded import launcher
from gateway.embedded.disk import cannot_write
from gateway.embedded.ports import check_ports
from gateway.embedded.problem import StartError
from gateway.embedded.restarts import Restarts
from gateway.embedded.service import LogReader, Service
from gateway.embedded.vigil import Vigil, kill_group

READY_POLL_S = 0.02
PORTS_FREE_S = 1.0
LARGEST_LOG = 16 << 20
"""Bytes; a larger log is put aside as `NAME.1` when its program is started by a new `catflap up`."""

Say = Callable[[str], None]


class Supervisor:
    """One service's life: `start` it; it is watched, and started again when it must, until `stop`."""

    def __init__(self, service: Service, say: Say) -> None:
        """`say` takes a line for the person at the keyboard."""
        self.service = service
        self.restarts = 0
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._log: LogReader | None = None
        self._began = 0.0
        self._watcher: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The running process, if there is one."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    async def start(self) -> None:
        """Returns when the program works. Raises StartError, leaving nothing behind, when it does not come to that."""
        _put_aside(self.service.log)
        await self._live()
        self._watcher = asyncio.create_task(self._watch(), name=f"watch {self.service.name}")
        self._watcher.add_done_callback(self._watch_ended)

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL when its time is over; returns when the process and its group are gone."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        try:
            await self._ask_to_end()
        finally:
            await self._end()
            self.service.clear()

    async def _ask_to_end(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        try:
            self._process.terminate()
            async with asyncio.timeout(self.service.stop_within_s):
                await self._process.wait()
        except TimeoutError:
            self._say(f"{self.service.name}: did not stop within {self.service.stop_within_s:g} s, killed")

    async def _watch(self) -> None:
        """Whenever the program ends or is of no use any more, start it again, with back-off (restarts.py)."""
        restarts = Restarts(self.service.name, str(self.service.log))
        while True:
            reason = await self._vigil().illness()
            noticed = time.monotonic()
            wait_s: float | None = self._tell(restarts.ended(noticed, reason, noticed - self._began))
            await self._end()  # after its line: a process that waits for a broken disk takes its time to be killed
            while wait_s is not None:
                await asyncio.sleep(wait_s)
                wait_s = await self._again(restarts)
            self._say(restarts.works(time.monotonic() - noticed))

    async def _again(self, restarts: Restarts) -> float | None:
        """One try: None when it works, else the wait before the next one."""
        self.restarts += 1
        try:
            await self._live()
        except StartError as problem:
            return self._tell(restarts.did_not_start(time.monotonic(), str(problem)))
        return None

    def _tell(self, verdict: tuple[float, list[str]]) -> float:
        wait_s, lines = verdict
        for line in lines:
            self._say(line)
        return wait_s

    async def _live(self) -> None:
        """Start the process and wait until it works. Raises StartError, leaving nothing behind."""
        service = self.service
        await _until_free(service)
        try:
            await self._spawn()
        except OSError as problem:
            raise StartError(
                f"{service.name} cannot be started. {cannot_write(service.log.parent, problem)}"
            ) from problem
        try:
            await self._until_ready(self._running())
        except BaseException:  # cancelled in the middle, most likely: the child must not stay
            await self._end()
            raise

    async def _spawn(self) -> None:
        service = self.service
        service.clear()
        service.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log = LogReader(service.log)
        self._began = time.monotonic()
        with service.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *_launched(service.command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(service.environment),
                start_new_session=True,
            )

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        service, log = self.service, self._log
        try:
            async with asyncio.timeout(service.ready_within_s):
                while not await service.ready():
                    if process.returncode is not None:
                        text = log.text() if log else ""
                        raise StartError(
                            f"{service.name} does not start: {service.decisive(text)} (its log: {service.log})"
                        )
                    await asyncio.sleep(READY_POLL_S)
        except TimeoutError as late:
            raise StartError(
                f"{service.name} is not ready after {service.ready_within_s:g} s: see its log {service.log}."
            ) from late

    def _vigil(self) -> Vigil:
        assert self._log is not None
        return Vigil(self.service, self._running(), self._log, self._say)

    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    async def _end(self) -> None:
        """Kill what is left of the process and of its group, and wait for it."""
        process, self._process = self._process, None
        if process is None:
            return
        kill_group(process.pid)
        await process.wait()

    def _watch_ended(self, watcher: asyncio.Task[None]) -> None:
        """It never should. Should it have a fault of its own, nobody is left to believe that it still watches."""
        if not watcher.cancelled() and (fault := watcher.exception()) is not None:
            self._say(
                f"{self.service.name}: is not watched any more (a fault of Catflap: {type(fault).__name__}: {fault}); "
                f"start `catflap up` again"
            )


async def _until_free(service: Service) -> None:
    """A killed program's own children may hold its ports a moment longer. Raises StartError, naming the port."""
    due = time.monotonic() + PORTS_FREE_S
    while True:
        try:
            return check_ports(service.ports)
        except StartError:
            if time.monotonic() >= due:
                raise
        await asyncio.sleep(READY_POLL_S)


def _launched(command: tuple[str, ...]) -> tuple[str, ...]:
    # -I -S: the launcher needs neither site-packages nor the environment, and starts in a third of the time.
    return (sys.executable, "-I", "-S", str(Path(launcher.__file__)), str(os.getpid()), *command)


def _put_aside(log: Path) -> None:
    with contextlib.suppress(OSError):  # a log too long is no reason not to start
        if log.stat().st_size > LARGEST_LOG:
            log.replace(log.with_name(log.name + ".1"))
