"""The pipelined connection: against a real Redis, and against a server of our own for what a real one never does."""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from gateway.quota.connection import RedisConnection, RedisRefused, RedisUnavailable, Script
from tests.support.eventually import eventually
from tests.support.redis import RedisServer, redis_binary

ADD = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
ONCE = Script("if redis.call('SETNX', KEYS[1], 1) == 1 then redis.call('INCR', 'done') end return 1")
BAD = Script("return redis.error_reply('WRONG planted')")


@asynccontextmanager
async def connected(url: str, **options: object) -> AsyncIterator[RedisConnection]:
    connection = RedisConnection(url, **options)  # type: ignore[arg-type]
    await connection.start()
    try:
        yield connection
    finally:
        await connection.close(0.5)


async def test_concurrent_calls_each_get_their_own_reply(redis_url: str) -> None:
    async with connected(redis_url) as connection:
        replies = await asyncio.gather(*(connection.call(ADD, [f"k{i}"], [i]) for i in range(500)))
        assert replies == list(range(500))


async def test_a_forgotten_script_is_sent_again_as_text_for_calls_and_posts(redis_url: str) -> None:
    client = Redis.from_url(redis_url)
    async with connected(redis_url) as connection:
        assert await connection.call(ADD, ["k"], [1]) == 1
        await client.script_flush()
        assert await connection.call(ADD, ["k"], [1]) == 2
        await client.script_flush()
        connection.post(ADD, ["k"], [1])
        assert await connection.call(ADD, ["other"], [1]) == 1
        assert await client.get("k") == b"3"
    await client.aclose()


async def test_what_is_posted_is_on_its_way_when_the_caller_has_let_the_loop_turn_once(redis_url: str) -> None:
    async with connected(redis_url) as connection:
        await connection.call(ADD, ["k"], [1])
        connection.post(ADD, ["k"], [1])
        await asyncio.sleep(0)
        with BlockingRedis.from_url(redis_url) as client:  # the event loop of the connection stands still meanwhile
            deadline = time.monotonic() + 5
            while client.get("k") != b"2":
                assert time.monotonic() < deadline, "what was posted waits for the event loop: a kill would lose it"


async def test_an_error_reply_is_refused_to_its_caller_alone(redis_url: str) -> None:
    async with connected(redis_url) as connection:
        bad, good = connection.call(BAD, [], []), connection.call(ADD, ["k"], [1])
        with pytest.raises(RedisRefused):
            await bad
        assert await good == 1


ANSWERS = (
    "if redis.call('INCR', 'tried') <= 3 then return redis.error_reply('{}') end return redis.call('INCR', 'done')"
)


@pytest.mark.parametrize(
    "error", ["BUSY planted", "NOAUTH planted", "NOPERM planted", "TRYAGAIN planted", "NOREPLICAS planted"]
)
async def test_an_error_that_means_not_now_counts_as_an_absence_and_loses_no_post(redis_url: str, error: str) -> None:
    dropped: list[int] = []
    client = Redis.from_url(redis_url)
    async with connected(redis_url, on_dropped=lambda: dropped.append(1)) as connection:
        with pytest.raises(RedisUnavailable):  # and so a gateway that goes on alone does so
            await connection.call(Script(ANSWERS.format(error)), [], [])
        await eventually(lambda: connection.ready, what="the reconnection")
        connection.post(Script(ANSWERS.format(error)), ["k"], [])

        async def done() -> bool:
            return await client.get("done") == b"1"

        await eventually(done, what="the post")
        assert not dropped
    await client.aclose()


async def test_a_post_that_redis_refuses_for_a_while_is_tried_again_and_others_go_on(redis_url: str) -> None:
    dropped: list[int] = []
    heard: list[object] = []
    client = Redis.from_url(redis_url)
    async with connected(redis_url, on_dropped=lambda: dropped.append(1)) as connection:
        since = connection.connected_since("k")
        connection.post(Script(ANSWERS.format("ERR planted")), ["k"], [], hear=heard.append)
        assert await connection.call(ADD, ["k"], [1]) == 1
        await eventually(lambda: heard == [1], what="the post")
        assert connection.connected_since("k") == since, "the connection is well"
        assert not dropped
    await client.aclose()


async def test_what_redis_refuses_is_tried_with_growing_pauses_and_sent_with_the_rest_after_an_absence(
    redis_server: RedisServer,
) -> None:
    client = Redis.from_url(redis_server.url)
    refusing = Script("redis.call('INCR', 'tried') if redis.call('EXISTS', 'open') == 0 then "
                      "return redis.error_reply('ERR planted') end return redis.call('INCR', 'done')")  # fmt: skip
    async with connected(redis_server.url) as connection:
        connection.post(refusing, ["k"], [])
        await asyncio.sleep(1)
        assert 2 <= int(await client.get("tried") or 0) <= 6
        await client.set("open", 1)
        await client.client_kill_filter(_type="normal", skipme=True)

        async def done() -> bool:
            return await client.get("done") == b"1"

        await eventually(done, what="the post")
    await client.aclose()


@pytest.mark.parametrize("never", ["assert(false, 'planted')", "return redis.call('HGET', 'text', 'a')"])
async def test_a_post_that_can_never_be_carried_out_is_dropped_and_counted(redis_url: str, never: str) -> None:
    dropped: list[int] = []
    client = Redis.from_url(redis_url)
    await client.set("text", "x")
    async with connected(redis_url, on_dropped=lambda: dropped.append(1)) as connection:
        connection.post(Script(never), ["k"], [])
        connection.post(Script(never), ["k"], [], keep=False)
        assert await connection.call(ADD, ["k"], [1]) == 1
        await eventually(lambda: dropped == [1], what="the count")
    await client.aclose()


async def test_a_call_that_was_given_up_takes_nobody_elses_reply(redis_url: str) -> None:
    async with connected(redis_url) as connection:
        given_up = connection.call(ADD, ["a"], [7])
        kept = connection.call(ADD, ["b"], [1])
        given_up.cancel()
        assert await kept == 1


async def test_posts_of_an_absence_arrive_once_each_when_redis_is_back(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    server = RedisServer(redis_binary(), Path(tmp_path_factory.mktemp("r")), persist=True)
    server.start()
    client = Redis.from_url(server.url)
    async with connected(server.url) as connection:
        for i in range(100):
            connection.post(ONCE, [f"before{i}"], [])
        server.kill()  # some of them have been heard, some have not
        await eventually(lambda: not connection.ready, what="the loss")
        for i in range(100):
            connection.post(ONCE, [f"during{i}"], [])
        with pytest.raises(RedisUnavailable):
            await connection.call(ADD, ["k"], [1])
        server.start()
        await eventually(lambda: connection.ready, what="the reconnection")

        async def all_done() -> bool:
            return await client.get("done") == b"200"

        await eventually(all_done, what="all posts")
    await client.aclose()
    server.stop()


async def test_a_paused_redis_fails_calls_in_time_and_keeps_posts(redis_server: RedisServer) -> None:
    client = Redis.from_url(redis_server.url)
    async with connected(redis_server.url, timeout_s=0.1) as connection:
        assert await connection.call(ADD, ["k"], [1]) == 1
        redis_server.pause()
        connection.post(ONCE, ["kept"], [])
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(RedisUnavailable):
            await connection.call(ADD, ["k"], [1])
        assert loop.time() - began < 0.3
        began = loop.time()
        with pytest.raises(RedisUnavailable):
            await connection.call(ADD, ["k"], [1])
        assert loop.time() - began < 0.05, "nobody waits for a Redis that is known to be away"
        redis_server.resume()
        await eventually(lambda: connection.ready, what="the reconnection")

        async def done_once() -> bool:
            return await client.get("done") == b"1"

        await eventually(done_once, what="the kept post")
    await client.aclose()


async def test_a_large_backlog_is_delivered_and_service_is_back_soon(redis_server: RedisServer) -> None:
    client = Redis.from_url(redis_server.url)
    async with connected(redis_server.url) as connection:
        redis_server.pause()
        with pytest.raises(RedisUnavailable):
            await connection.call(ADD, ["k"], [1])
        for i in range(20_000):
            connection.post(ONCE, [f"k{i}"], [])
        redis_server.resume()

        async def all_done() -> bool:
            return await client.get("done") == b"20000"

        await eventually(all_done, within_s=15, what="20,000 posts")
        await eventually(lambda: connection.ready)
        assert await connection.call(ADD, ["k"], [1]) is not None
    await client.aclose()


async def test_the_backlog_is_bounded_and_says_what_it_drops(tmp_path: Path) -> None:
    dropped: list[int] = []
    async with connected(f"unix://{tmp_path}/none", backlog=10, on_dropped=lambda: dropped.append(1)) as connection:
        for i in range(25):
            connection.post(ONCE, [f"k{i}"], [])
    assert len(dropped) == 15


async def test_closing_waits_for_what_was_posted(redis_url: str) -> None:
    client = Redis.from_url(redis_url)
    connection = RedisConnection(redis_url)
    await connection.start()
    for i in range(200):
        connection.post(ONCE, [f"k{i}"], [])
    await connection.close()
    assert await client.get("done") == b"200"
    await client.aclose()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def pretending(path: Path, serve: Serve) -> AsyncIterator[str]:
    """A server on a socket that is no Redis."""
    tasks = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await reader.read(65_536)
            writer.write(b"+PONG\r\n")
            await serve(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_unix_server(handle, path)
    yield f"unix://{path}"
    server.close()
    for task in tasks:
        if task is not None:
            task.cancel()
    await asyncio.gather(*(task for task in tasks if task is not None))


async def test_replies_in_pieces_are_put_together(tmp_path: Path) -> None:
    async def bit_by_bit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            for byte in b"*2\r\n:1\r\n$5\r\nhello\r\n":
                writer.write(bytes([byte]))
                await asyncio.sleep(0)

    async with pretending(tmp_path / "s", bit_by_bit) as url, connected(url) as connection:
        assert await connection.call(ADD, [], []) == [1, b"hello"]


@pytest.mark.parametrize("nonsense", [b"?what\r\n", b":1\r\n:2\r\n"])
async def test_a_server_that_breaks_the_protocol_is_hung_up_on(tmp_path: Path, nonsense: bytes) -> None:
    async def rave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            writer.write(nonsense)

    async with pretending(tmp_path / "s", rave) as url, connected(url) as connection:
        with suppress(RedisUnavailable):
            await connection.call(ADD, [], [])
        await eventually(lambda: not connection.ready, what="the end of the connection")


async def test_a_late_reply_is_given_to_nobody(tmp_path: Path) -> None:
    count = 0

    async def late_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        number = count
        while await reader.read(65_536):
            if number == 1:
                await asyncio.sleep(0.3)
            writer.write(b":%d\r\n" % number)

    async with pretending(tmp_path / "s", late_once) as url, connected(url, timeout_s=0.05) as connection:
        with pytest.raises(RedisUnavailable):
            await connection.call(ADD, [], [])
        await eventually(lambda: connection.ready, what="the reconnection")
        assert await connection.call(ADD, [], []) == 2


async def answer_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, each_s: float) -> None:
    while data := await reader.read(65_536):
        for _ in range(data.count(b"EVALSHA") + data.count(b"PING")):
            await asyncio.sleep(each_s)
            writer.write(b":1\r\n")


async def test_nobody_waits_longer_because_others_were_late_before(tmp_path: Path) -> None:
    waited: list[float] = []

    async def call(connection: RedisConnection, later: float) -> None:
        await asyncio.sleep(later)
        began = asyncio.get_running_loop().time()
        with suppress(RedisUnavailable):
            await connection.call(ADD, [], [])
        waited.append(asyncio.get_running_loop().time() - began)

    serve = functools.partial(answer_slowly, each_s=0.3)
    async with pretending(tmp_path / "s", serve) as url, connected(url, timeout_s=0.4) as connection:
        await asyncio.gather(*(call(connection, number * 0.1) for number in range(4)))
    assert max(waited) < 0.46


async def test_a_server_that_is_slow_but_talks_opens_the_breaker_until_it_has_caught_up(tmp_path: Path) -> None:
    slowly = functools.partial(answer_slowly, each_s=0.06)
    loop = asyncio.get_running_loop()
    async with pretending(tmp_path / "s", slowly) as url, connected(url, timeout_s=0.1) as connection:
        since, began = connection.connected_since("k"), loop.time()
        calls = [connection.call(ADD, [], []) for _ in range(8)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert loop.time() - began < 0.2
        assert ended[0] == 1
        assert isinstance(ended[-1], RedisUnavailable)
        assert not connection.ready
        heard: list[object] = []
        connection.post(ADD, [], [], hear=heard.append)
        with pytest.raises(RedisUnavailable):
            await connection.call(ADD, [], [])
        await eventually(lambda: connection.ready, what="the probe's answer")
        await eventually(lambda: heard == [1], what="the post")
        assert connection.connected_since("k") == since, "it was not hung up on"
