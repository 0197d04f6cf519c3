"""How long to wait before trying again."""

import asyncio

FIRST_S = 0.1
LONGEST_S = 5.0


class Backoff:
    """0.1 s, doubled at each further wait, up to 5 s; `reset` after a success."""

    def __init__(self) -> None:
        self._next_s = FIRST_S

    def reset(self) -> None:
        self._next_s = FIRST_S

    async def wait(self, stop: asyncio.Event) -> None:
        """The next wait; cut short by `stop`."""
        wait_s, self._next_s = self._next_s, min(self._next_s * 2, LONGEST_S)
        await pause(stop, wait_s)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait so long, or until `stop`."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
