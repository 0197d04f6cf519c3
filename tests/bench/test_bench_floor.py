"""The floors pass Triton's bytes on, and the redis floor asks Redis exactly once a request."""

import asyncio
from pathlib import Path

import redis

from lab.bench import traffic
from lab.bench.client import Answer, Client
from lab.bench.measure import mock_counters
from lab.bench.peers import Peer, Running, plain_floor, redis_floor
from lab.bench.processes import mock_triton

REQUESTS = 6


async def ask(floor: Running, *, stream: bool) -> list[Answer]:
    async with Client(floor.port, floor.key) as client:
        return [await client.post(traffic.PATH, traffic.chat(stream=stream)) for _ in range(REQUESTS)]


async def ask_mock(port: int, model: str) -> bytes:
    async with Client(port) as client:
        return (await client.post(f"/v2/models/{model}/generate_stream", b"{}")).body


def check(peer: Peer, folder: Path) -> dict[str, int]:
    """Both kinds of answer are the mock's, byte for byte; how often Redis was asked for each command."""
    with mock_triton(folder, chunks=5) as (_mock, port), peer(folder, port) as floor:
        for model, stream in (("mock", False), ("mock-stream", True)):
            wanted = asyncio.run(ask_mock(port, model))
            answers = asyncio.run(ask(floor, stream=stream))
            assert {(answer.status, answer.body) for answer in answers} == {(200, wanted)}
        seen = asyncio.run(mock_counters(port))
        assert seen["requests"] == 2 * REQUESTS + 2
        assert seen["cancelled"] == 0
        if "redis" not in floor.beside:
            return {}
        with redis.Redis.from_url(f"unix://{folder / 'redis.sock'}") as client:
            return {name: told["calls"] for name, told in client.info("commandstats").items()}


def test_the_plain_floor_passes_the_mocks_bytes_through(tmp_path: Path) -> None:
    assert check(plain_floor, tmp_path) == {}


def test_the_redis_floor_runs_one_script_a_request(tmp_path: Path) -> None:
    assert check(redis_floor, tmp_path)["cmdstat_evalsha"] == 2 * REQUESTS
