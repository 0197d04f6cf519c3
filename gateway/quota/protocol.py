"""What the hot path asks of Redis, whether that is one server, a master behind Sentinels, or a Cluster."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.quota.connection import Argument, Script


class Connection(Protocol):
    """Keys of one call lie in one slot. No call waits longer than the connection's timeout, redirections included."""

    @property
    def ready(self) -> bool:
        """Whether some server can be asked."""

    async def start(self) -> None:
        """Begin to connect, and wait for the first try only."""

    async def close(self, timeout_s: float = 2.0) -> None:
        """Wait, at most so long, for the replies that are due; then hang up."""

    def call(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> "asyncio.Future[object]":
        """Run a script; the future holds its reply, RedisRefused or RedisUnavailable."""

    def post(
        self,
        script: Script,
        keys: Sequence[Argument],
        args: Sequence[Argument],
        *,
        keep: bool = True,
        hear: Callable[[object], None] | None = None,
    ) -> None:
        """Run an idempotent script; its reply goes to `hear`. `keep`: what Redis cannot take now it gets later."""

    async def ping(self) -> None:
        """Raise RedisUnavailable or RedisRefused unless some server answers in time."""

    def connected_since(self, key: Argument) -> float | None:
        """A number that changes whenever the server behind `key` may be another, or have lost something; None while
        there is none."""
