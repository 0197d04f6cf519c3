"""Waiting for what other processes do, where there is nothing to await."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Found = TypeVar("Found")


async def eventually(
    look: Callable[[], Awaitable[Found]] | Callable[[], Found], *, within_s: float = 5.0, what: str = "it"
) -> Found:
    """The first truthy value of `look`, asked again and again; AssertionError when the time is up."""
    deadline = time.monotonic() + within_s
    while True:
        value = look()
        found: Found = await value if isinstance(value, Awaitable) else value
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {within_s} s; last seen: {found!r}")
        await asyncio.sleep(0.01)
