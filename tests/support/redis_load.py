"""Calls and posts on a Redis that is being ill-treated, and what became of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gateway.quota.connection import RedisUnavailable, Script
from gateway.quota.open import open_redis
from gateway.quota.protocol import Connection
from tests.support.eventually import eventually

ADD = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
ONCE = Script("if redis.call('SETNX', KEYS[1], 1) == 1 then redis.call('INCR', KEYS[2]) end return 1")
TIMEOUT_S = 0.1
SLACK_S = 0.1  # two shared cores: the event loop itself may be late


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = open_redis(url, timeout_s=TIMEOUT_S)
    await connection.start()
    try:
        yield connection
    finally:
        await connection.close(0.5)


class Load:
    """Calls and posts on all partitions, one after the other, until it is stopped; and what became of them."""

    def __init__(self, connection: Connection, partitions: int = 32) -> None:
        self.connection = connection
        self.keys = [f"cf:{{p{number}}}:" for number in range(partitions)]
        self.longest = 0.0
        self.answered = dict.fromkeys(self.keys, 0)
        self.failed = dict.fromkeys(self.keys, 0)
        self.posted = dict.fromkeys(self.keys, 0)
        self._stop = False

    async def run(self) -> None:
        await asyncio.gather(*(self._run(key) for key in self.keys))

    def stop(self) -> None:
        self._stop = True

    async def _run(self, key: str) -> None:
        loop = asyncio.get_running_loop()
        while not self._stop:
            began = loop.time()
            try:
                await self.connection.call(ADD, [f"{key}calls"], [1])
                self.answered[key] += 1
            except RedisUnavailable:
                self.failed[key] += 1
            self.longest = max(self.longest, loop.time() - began)
            self.posted[key] += 1
            self.connection.post(ONCE, [f"{key}{self.posted[key]}", f"{key}done"], [])
            await asyncio.sleep(0.02)

    async def done(self, key: str) -> int:
        """How many of the posts for this partition have been carried out, each counted once."""
        try:
            return int(str(await self.connection.call(ADD, [f"{key}done"], [0])))
        except RedisUnavailable:
            return -1

    async def all_arrived(self) -> None:
        for key in self.keys:

            async def arrived(key: str = key) -> bool:
                return await self.done(key) == self.posted[key]

            await eventually(arrived, within_s=10, what=f"every post for {key}")


async def under_load(connection: Connection, act: Callable[[Load], Awaitable[None]]) -> Load:
    """`act` while requests run; the load when it is over, and all that was posted has arrived."""
    load = Load(connection)
    running = asyncio.create_task(load.run())
    await asyncio.sleep(0.2)
    try:
        await act(load)
    finally:
        load.stop()
        await running
    return load
