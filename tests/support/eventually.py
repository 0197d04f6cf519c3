"""Waiting for what other processes do, where there is nothing to await."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

Found = TypeVar("Found")


@overload
async def eventually(
    look: Callable[[], Coroutine[Any, Any, Found]], *, within_s: float = 5.0, what: str = "it"
) -> Found: ...


@overload
async def eventually(look: Callable[[], Found], *, within_s: float = 5.0, what: str = "it") -> Found: ...


async def eventually(look: Callable[[], Any], *, within_s: float = 5.0, what: str = "it") -> Any:
    """The first truthy value of `look`, asked again and again; AssertionError when the time is up."""
    deadline = time.monotonic() + within_s
    while True:
        value = look()
        found = await value if isinstance(value, Coroutine) else value
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {within_s} s; last seen: {found!r}")
        await asyncio.sleep(0.01)
