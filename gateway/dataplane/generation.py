"""All choices of one request as one sequence of deltas."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from gateway.core.delta import Delta
from gateway.core.prompt import Sampling
from gateway.dataplane.fit import Work
from gateway.fleet.router import Asked, Choice, Router


async def open_choices(
    router: Router, work: Work, n: int, sampling: Sampling, traceparent: bytes | None, routes: list[list[str]]
) -> list[Choice]:
    """`n` generations for each text, all of them begun, or none left behind; the endpoints that each went to are added
    to its list in `routes`. Raises Unavailable, UpstreamFailed or UpstreamTimeout.
    """

    async def begin(choice: int, route: list[str]) -> Choice:
        asked = Asked(sampling, work.max_tokens[choice // n], traceparent)
        return await router.open(work.model, work.texts[choice // n], asked, choice, route)

    if len(routes) == 1:
        return [await begin(0, routes[0])]
    openings = [asyncio.create_task(begin(choice, route)) for choice, route in enumerate(routes)]
    try:
        return list(await asyncio.gather(*openings))
    except BaseException:
        for opening in openings:
            opening.cancel()
        for opened in await asyncio.gather(*openings, return_exceptions=True):
            if isinstance(opened, Choice):
                opened.close()
        raise


class Source(Protocol):
    """What can be read as a Choice is."""

    @property
    def finished(self) -> bool: ...

    async def read(self) -> list[Delta]: ...

    def close(self) -> None: ...


class Several:
    """Several choices, read side by side; `read` has Choice's meaning, for all of them together."""

    def __init__(self, choices: Sequence[Source]) -> None:
        self._reads = {asyncio.create_task(choice.read()): choice for choice in choices}

    @property
    def finished(self) -> bool:
        """Every choice's last delta has been handed out by `read` (a choice may know its end before that)."""
        return not self._reads

    async def read(self) -> list[Delta]:
        """The next deltas of any choice; empty when all have finished."""
        deltas: list[Delta] = []
        while self._reads and not deltas:
            done, _ = await asyncio.wait(self._reads, return_when=asyncio.FIRST_COMPLETED)
            failed = {task for task in done if task.exception() is not None}
            for task in done - failed:
                choice = self._reads.pop(task)
                deltas += task.result()
                if not choice.finished:
                    self._reads[asyncio.create_task(choice.read())] = choice
            if failed and not deltas:  # otherwise the next read meets it: what was generated is told and charged first
                failed.pop().result()
        return deltas

    def close(self) -> None:
        """Stop reading. The first failure has been told already; those of other choices end here."""
        for task in self._reads:
            task.cancel()
            task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
