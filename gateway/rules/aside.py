"""Work on a disk that may hang: on a thread, for a bounded time, and never on a second thread while the first hangs."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


class Aside:
    """One disk."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._stuck: asyncio.Future[Any] | None = None

    async def run(self, work: Callable[[], Result]) -> Result:
        """What `work` returns. Raises TimeoutError, and what it raises."""
        if self._stuck is not None and not self._stuck.done():
            raise TimeoutError
        future = asyncio.ensure_future(asyncio.to_thread(work))
        done, _ = await asyncio.wait({future}, timeout=self._timeout_s)
        if not done:
            self._stuck = future
            raise TimeoutError
        return future.result()
