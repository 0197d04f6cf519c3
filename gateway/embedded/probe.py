"""Short questions to a server that may not be there yet. Each gives an answer within a second."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

Connecting = Coroutine[Any, Any, tuple[asyncio.StreamReader, asyncio.StreamWriter]]
PROBE_TIMEOUT_S = 1.0


async def http_ok(host: str, port: int, path: str) -> bool:
    """Whether GET `path` is answered with status 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    answer = await _ask(asyncio.open_connection(reachable(host), port), request)
    return answer.split(b" ", 2)[1:2] == [b"200"]


async def listens(host: str, port: int) -> bool:
    """Whether a connection is accepted."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            _, writer = await asyncio.open_connection(reachable(host), port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def redis_answers(path: Path) -> bool:
    """Whether a Redis on this socket has loaded its data."""
    return await _ask(asyncio.open_unix_connection(path), b"PING\r\n") == b"+PONG\r\n"


def reachable(host: str) -> str:
    """An address to call a server at that listens on `host`: the wildcards are no destination."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared, not bound


async def _ask(connecting: Connecting, request: bytes) -> bytes:
    """The first line of the answer; empty when there is none in time."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await connecting
            try:
                writer.write(request)
                return await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return b""
