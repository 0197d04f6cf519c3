"""Watching one living process until it has to be replaced, and saying why.

A process that has ended says so itself. One that hangs does not: it keeps its port, and what is asked of it waits. So
each service names a *look*, a question that costs about a millisecond and that no amount of work keeps it from
answering. Two questions in a row without an answer are a hang: one may have been lost while we ourselves were stopped
(Ctrl-Z), since its time ran on and its answer lay unread.

A busy machine is no hang either. A process that is silent but uses the processor gets a minute instead of seconds:
what is truly stuck waits, and waiting costs nothing.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.embedded.process import cpu_seconds, stopped
from gateway.embedded.service import LogReader, Service

HEALTH_POLL_S = 0.25
LOOK_S = 1.0
"""Between an answer and the next question."""
ANSWER_S = 4.0
"""The longest wait for an answer, a little above the probes' own, which can say what was asked."""
SILENT_LOOKS = 2
LEAST_SILENCE_S = 5.0
"""A hang is noticed between here and LOOK_S + SILENT_LOOKS * ANSWER_S + AGAIN_S = 9.25 s; if busy, after BUSY_S."""
AGAIN_S = 0.25
"""Between no answer and the next question: some looks see at once that there is none."""
BUSY_S = 60.0
BUSY_SHARE = 0.1
"""Of one core, over the silence. An idle tritonserver uses a hundredth; a starved but working one far more."""


@dataclass(slots=True)
class Vigil:
    """One life of one process."""

    service: Service
    process: asyncio.subprocess.Process
    log: LogReader
    say: Callable[[str], None]

    async def illness(self) -> str:
        """Wait until there is one; what it is, to stand after the service's name."""
        watches = [asyncio.create_task(work) for work in (self._ended(), self._hung())]
        try:
            done, _ = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

    async def _ended(self) -> str:
        while self.process.returncode is None:
            if reason := self.service.illness(self.process.pid, self.log):
                return reason
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEALTH_POLL_S):
                    await self.process.wait()
        return ended(self.process.returncode)

    async def _hung(self) -> str:
        pid, silent = self.process.pid, 0
        since, used = time.monotonic(), cpu_seconds(pid)
        trouble: str | None = None
        while True:
            silence = await self._silence(pid)
            if silence is None:
                since, used, silent = time.monotonic(), cpu_seconds(pid), 0
                trouble = await self._tell(trouble)
                await asyncio.sleep(LOOK_S)
                continue
            silent += 1
            lasted = time.monotonic() - since
            works = cpu_seconds(pid) - used > BUSY_SHARE * lasted
            if silent >= SILENT_LOOKS and lasted >= LEAST_SILENCE_S and (not works or lasted > BUSY_S):
                return f"hangs: {silence} ({lasted:.0f} s now)"
            await asyncio.sleep(AGAIN_S)

    async def _silence(self, pid: int) -> str | None:
        """Ask once: what does not answer, or None. Stopped by a signal is silent: it may still be let go on."""
        if stopped(pid):
            return "its process is stopped by a signal"
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self.service.look(pid)
        except TimeoutError:
            return "it does not answer"

    async def _tell(self, before: str | None) -> str | None:
        """Say what it cannot do although it lives, once, and when that is over."""
        now = await self.service.trouble()
        if now is not None and before is None:
            self.say(f"{self.service.name}: {now}")
        elif now is None and before is not None:
            self.say(f"{self.service.name}: goes on")
        return now


def ended(status: int) -> str:
    """How a process ended, from its return code."""
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def kill_group(pid: int) -> None:
    """SIGKILL to what is left of the group that `pid` leads, also after the leader's own end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
