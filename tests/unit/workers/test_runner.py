"""Workers side by side."""

import asyncio

import pytest
from prometheus_client import REGISTRY

from gateway.workers import backoff
from gateway.workers.runner import run_workers


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 0.0)


async def test_a_worker_that_fails_is_begun_anew_and_the_others_go_on() -> None:
    stop, begun = asyncio.Event(), []

    async def fails_twice(stop: asyncio.Event) -> None:
        begun.append("fails")
        if begun.count("fails") < 3:
            raise ZeroDivisionError("with a secret in its text")
        stop.set()

    async def steady(stop: asyncio.Event) -> None:
        begun.append("steady")
        await stop.wait()

    await run_workers({"fails twice": fails_twice, "steady": steady}, stop)
    assert begun.count("fails") == 3
    assert begun.count("steady") == 1
    assert REGISTRY.get_sample_value("catflap_worker_restarts_total", {"worker": "fails twice"}) == 2


async def test_a_worker_that_returns_too_early_is_begun_anew() -> None:
    stop, begun = asyncio.Event(), []

    async def hasty(stop: asyncio.Event) -> None:
        begun.append(1)
        if len(begun) == 3:
            stop.set()

    await run_workers({"hasty": hasty}, stop)
    assert len(begun) == 3


async def test_the_workers_finish_what_they_have_in_hand_when_the_runner_stops() -> None:
    stop, begun, finished = asyncio.Event(), asyncio.Event(), []

    async def careful(stop: asyncio.Event) -> None:
        begun.set()
        await stop.wait()
        await asyncio.sleep(0)
        finished.append(1)

    running = asyncio.create_task(run_workers({"careful": careful}, stop))
    await begun.wait()
    stop.set()
    await running
    assert finished == [1]


async def test_a_cancelled_runner_leaves_no_worker_behind() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def worker(_: asyncio.Event) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    running = asyncio.create_task(run_workers({"endless": worker}, asyncio.Event()))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()
