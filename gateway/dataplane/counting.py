"""Long counts, off the event loop and fair. Counting comes before admission, so no limit of a plan slows a flood of it
down: here each principal has one count at a time, and the principals take turns."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gateway.core.errors import RateLimited

THREADS = 2
"""Counts at a time: they compete with the event loop for the processor."""

MAX_WAITING = 32
"""Counts of one principal that wait for their turn."""

Result = TypeVar("Result")


class Counting:
    """Threads for counting, of one worker. Only who counts or waits is remembered."""

    def __init__(self, threads: int = THREADS, max_waiting: int = MAX_WAITING) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="count")
        self._free = threads
        self._max_waiting = max_waiting
        self._busy: set[str] = set()
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}  # principals in the order of their turns

    @property
    def principals(self) -> int:
        """How many of them count or wait."""
        return len(self._busy | self._lines.keys())

    async def run(self, principal: str, work: Callable[[], Result]) -> Result:
        """The result of `work`, which a thread does when it is the principal's turn. A thread cannot be stopped: who
        leaves meanwhile keeps the turn until the work is done. Raises RateLimited where too many wait already."""
        await self._turn(principal)
        try:
            counted = asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RuntimeError:  # the process is ending
            self._leave(principal)
            raise
        counted.add_done_callback(lambda _: self._leave(principal))
        return await asyncio.shield(counted)

    async def _turn(self, principal: str) -> None:
        line = self._lines.setdefault(principal, deque())
        if len(line) >= self._max_waiting:
            raise RateLimited(
                f"Too many long prompts of this principal wait to be counted ({self._max_waiting}). Try again in 1 s.",
                detail="counting",
                retry_after_ms=1000,
            )
        turn = asyncio.get_running_loop().create_future()
        line.append(turn)
        self._next()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(principal, turn)
            else:  # it came in the same moment
                self._leave(principal)
            raise

    def _forget(self, principal: str, turn: "asyncio.Future[None]") -> None:
        line = self._lines.get(principal)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._lines[principal]

    def _leave(self, principal: str) -> None:
        self._busy.remove(principal)
        self._free += 1
        if principal in self._lines:
            self._lines[principal] = self._lines.pop(principal)  # behind all others
        self._next()

    def _next(self) -> None:
        """Give free threads to those whose turn it is."""
        while self._free:
            principal = next((one for one in self._lines if one not in self._busy), None)
            if principal is None:
                return
            line = self._lines[principal]
            turn = line.popleft()
            if not line:
                del self._lines[principal]
            if not turn.done():
                turn.set_result(None)
                self._busy.add(principal)
                self._free -= 1
