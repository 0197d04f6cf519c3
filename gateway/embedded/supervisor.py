"""Run one program: start it, see it work, notice when it does not, start it again, stop it.

Every program is the leader of a session and a process group of its own: a Ctrl-C at the terminal reaches `catflap up`
alone, which then stops its children in order, and what a child leaves behind can be killed with its group. The launcher
binds its life to ours.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gateway.embedded import launcher
from gateway.embedded.problem import StartError
from gateway.embedded.service import Backoff, LogReader, Service

READY_POLL_S = 0.02
HEALTH_POLL_S = 0.25
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
        """Whenever the program ends or is of no use any more, start it again, with back-off."""
        backoff = Backoff()
        while True:
            reason = await self._illness()
            noticed = time.monotonic()
            await self._end()
            wait_s = backoff.after(noticed - self._began)
            self._say(f"{self.service.name}: {reason}; starting it again in {wait_s:g} s")
            await asyncio.sleep(wait_s)
            if not await self._again():
                continue  # it does not run: that is its illness now
            self._say(f"{self.service.name}: works again after {time.monotonic() - noticed:.1f} s")

    async def _again(self) -> bool:
        self.restarts += 1
        try:
            await self._live()
        except (StartError, OSError) as problem:  # OSError: a full disk, say, under its log
            self._say(str(problem))
            return False
        return True

    async def _live(self) -> None:
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
        try:
            await self._until_ready(self._process)
        except BaseException:  # cancelled in the middle, most likely: the child must not stay
            await self._end()
            raise

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

    async def _illness(self) -> str:
        """Wait until there is one."""
        process, log = self._process, self._log
        if process is None or log is None:
            return "it does not run"
        while process.returncode is None:
            if reason := self.service.illness(process.pid, log):
                return reason
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEALTH_POLL_S):
                    await process.wait()
        return _ended(process.returncode)

    async def _end(self) -> None:
        """Kill what is left of the process and of its group, and wait for it."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the leader's id is the group's, also after the leader's end
        await process.wait()


def _launched(command: tuple[str, ...]) -> tuple[str, ...]:
    # -I -S: the launcher needs neither site-packages nor the environment, and starts in a third of the time.
    return (sys.executable, "-I", "-S", str(Path(launcher.__file__)), str(os.getpid()), *command)


def _ended(status: int) -> str:
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def _put_aside(log: Path) -> None:
    if log.exists() and log.stat().st_size > LARGEST_LOG:
        log.replace(log.with_name(log.name + ".1"))
