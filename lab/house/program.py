"""Processes that an instrument kills, pauses and starts again."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.bench.errors import BenchError
from lab.bench.processes import ROOT, last_line, stop


class Program:
    """One process in a group of its own, both its outputs in `log`. `env` is the whole environment."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] = os.environ,
        fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._env = env
        self._fds = fds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def run_as(self, command: Sequence[str | Path]) -> None:
        """Another command from the next start on."""
        self._command = command

    def start(self) -> None:
        """Raises BenchError where it cannot be started."""
        with self.log.open("ab") as output:
            try:
                self._process = subprocess.Popen(
                    self._command,
                    cwd=ROOT,
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=self._fds,
                )
            except OSError as problem:
                raise BenchError(f"{self.name} cannot be started: {problem}.") from problem

    def kill(self) -> None:
        """SIGKILL: it gets to say nothing."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and does nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Asked first, killed when it does not go; a paused one too."""
        if self._process is not None:
            if self.alive:
                self.resume()
            stop(self._process)

    def check(self) -> None:
        """Raises BenchError with its last words if it has ended by itself."""
        if not self.alive:
            raise BenchError(f"{self.name} has ended: {last_line(self.log)}")
