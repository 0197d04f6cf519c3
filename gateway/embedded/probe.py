"""Short questions to a server that may not be there yet, or not any more. None waits for ever."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

Connecting = Coroutine[Any, Any, tuple[asyncio.StreamReader, asyncio.StreamWriter]]
PROBE_TIMEOUT_S = 1.0
"""For "is it ready yet", which is asked again at once."""
PATIENCE_S = 3.75
"""For "does it still live", where no answer has consequences."""
PING = b"PING\r\n"


async def http_answers(host: str, port: int, path: str) -> bool:
    """Whether GET `path` is answered at all, with whatever status."""
    return bool(await _ask(asyncio.open_connection(reachable(host), port), _get(host, path), PATIENCE_S))


async def http_words(host: str, port: int, path: str, body: bytes) -> bytes:
    """The answer to POST `path`, head and body; empty when there is none in time."""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return await _all(host, port, head.encode() + body, PATIENCE_S)


async def http_page(host: str, port: int, path: str) -> str:
    """The answer to GET `path`, head and body; empty when there is none in time."""
    return (await _all(host, port, _get(host, path), PROBE_TIMEOUT_S)).decode(errors="replace")


async def http_ok(host: str, port: int, path: str) -> bool:
    """Whether GET `path` is answered with status 200."""
    answer = await _ask(asyncio.open_connection(reachable(host), port), _get(host, path))
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
    return await _ask(asyncio.open_unix_connection(path), PING) == b"+PONG\r\n"


async def redis_says(path: Path) -> str:
    """A Redis's answer to PING, which may be an error; empty when there is none in time."""
    return (await _ask(asyncio.open_unix_connection(path), PING, PATIENCE_S)).decode(errors="replace").strip()


def reachable(host: str) -> str:
    """An address to call a server at that listens on `host`: the wildcards are no destination."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - compared, not bound


def _get(host: str, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


async def _all(host: str, port: int, request: bytes, within_s: float) -> bytes:
    """All of the answer, whose end is the connection's; empty when there is none in time."""
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await asyncio.open_connection(reachable(host), port)
            try:
                writer.write(request)
                return await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""


async def _ask(connecting: Connecting, request: bytes, within_s: float = PROBE_TIMEOUT_S) -> bytes:
    """The first line of the answer; empty when there is none in time."""
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await connecting
            try:
                writer.write(request)
                return await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return b""
