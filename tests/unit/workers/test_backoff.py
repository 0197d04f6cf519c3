"""How long a worker waits before it tries again."""

import asyncio
from collections.abc import Coroutine

import pytest

from gateway.workers.backoff import Backoff


async def test_the_waits_double_from_a_tenth_of_a_second_to_five_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []

    async def no_wait(event: Coroutine[None, None, bool], seconds: float) -> None:
        event.close()
        waits.append(seconds)
        raise TimeoutError

    monkeypatch.setattr(asyncio, "wait_for", no_wait)
    pause, stop = Backoff(), asyncio.Event()
    for _ in range(8):
        await pause.wait(stop)
    pause.reset()
    await pause.wait(stop)
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 0.1]


async def test_a_stop_ends_the_wait_at_once() -> None:
    stop = asyncio.Event()
    stop.set()
    pause = Backoff()
    for _ in range(20):
        await pause.wait(stop)
