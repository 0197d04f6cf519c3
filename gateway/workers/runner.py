"""Runs the background readers of one process side by side. One that ends with an error is begun anew, others go on."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog
from prometheus_client import Counter

from gateway.workers.backoff import LONGEST_S, Backoff

Worker = Callable[[asyncio.Event], Awaitable[None]]
"""Works until the event is set, then finishes what it has in hand and returns."""

log = structlog.get_logger()
restarts_total = Counter("catflap_worker_restarts", "Background readers begun anew after an error", ["worker"])


async def run_workers(workers: Mapping[str, Worker], stop: asyncio.Event) -> None:
    """All of them until `stop`."""
    async with asyncio.TaskGroup() as group:
        for name, worker in workers.items():
            group.create_task(keep_running(name, worker, stop), name=name)


async def keep_running(name: str, worker: Worker, stop: asyncio.Event) -> None:
    """Begin the worker again, after a growing pause, whenever it ends before `stop`."""
    backoff = Backoff()
    while not stop.is_set():
        began = time.monotonic()
        task = asyncio.ensure_future(worker(stop))
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait({task})
            raise
        if stop.is_set() and (task.cancelled() or task.exception() is None):
            return
        restarts_total.labels(name).inc()
        log.error("worker_ended", worker=name, **cause_of(task))
        if time.monotonic() - began > 2 * LONGEST_S:
            backoff.reset()
        await backoff.wait(stop)


def cause_of(task: "asyncio.Future[None]") -> dict[str, str]:
    """The kind of the error and where it arose. Its text may quote data, so it stays out of the log."""
    error = None if task.cancelled() else task.exception()
    if error is None:
        return {"error": "none"}
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return {"error": type(error).__name__, "where": where}
