"""The floors: what a Python proxy in front of Triton costs when it does nothing that a gateway is for.

*plain floor*: Starlette and aiohttp pass the bytes through, untranslated and unchecked. *redis floor*: the same, and
one EVALSHA through redis-py before it. Both under uvicorn with uvloop and httptools, one worker, as their documentation
says to run them: not the fastest that could be written, but what a careful team gets from the usual parts.

Started with a listening socket: `python -m lab.bench.floor --fd N --upstream http://HOST:PORT [--redis unix://...]`.
"""

import argparse
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import uvicorn
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

CAPACITY, REFILL, COST = 10**9, 10**6, 1  # a bucket that never runs dry


class Wanted(msgspec.Struct):
    """The two fields that a proxy has to know: where to, and whether to pass events on as they come."""

    model: str
    stream: bool = False


decode = msgspec.json.Decoder(Wanted).decode


class Bucket:
    """One token bucket a credential, in Redis."""

    def __init__(self, redis_url: str) -> None:
        self._redis: Redis = Redis.from_url(redis_url, max_connections=200)
        self._sha = ""

    async def open(self) -> None:
        script = Path(__file__).with_name("token_bucket.lua").read_text()
        self._sha = str(await self._redis.script_load(script))

    async def admits(self, credential: str) -> bool:
        admitted, _left = await self._redis.evalsha(self._sha, 1, f"bucket:{credential}", CAPACITY, REFILL, COST)
        return bool(admitted)

    async def close(self) -> None:
        await self._redis.aclose()


class Floor:
    """The proxy; `bucket` makes it the redis floor."""

    def __init__(self, upstream: str, bucket: Bucket | None) -> None:
        self._upstream = upstream
        self._bucket = bucket
        self._session: aiohttp.ClientSession

    def app(self) -> Starlette:
        return Starlette(
            routes=[Route("/v1/chat/completions", self.chat, methods=["POST"])],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as self._session:
            if self._bucket is not None:
                await self._bucket.open()
            yield
            if self._bucket is not None:
                await self._bucket.close()

    async def chat(self, request: Request) -> Response:
        body = await request.body()
        wanted = decode(body)
        if self._bucket is not None and not await self._bucket.admits(request.headers["authorization"]):
            return JSONResponse({"error": "rate limited"}, 429)
        url = f"{self._upstream}/v2/models/{wanted.model}/generate_stream"
        headers = {"content-type": "application/json"}
        if wanted.stream:
            answer = await self._session.post(url, data=body, headers=headers)
            # Handed over bare: whatever watched for the client's leaving would make the floor dearer.
            return StreamingResponse(answer.content.iter_any(), answer.status, media_type="text/event-stream")
        async with self._session.post(url, data=body, headers=headers) as answer:
            return Response(await answer.read(), answer.status, media_type="application/json")


def main() -> None:
    parser = argparse.ArgumentParser(description="A floor for a gateway's speed.")
    parser.add_argument("--fd", type=int, required=True, help="an inherited listening socket")
    parser.add_argument("--upstream", required=True, help="base URL of the mock Triton")
    parser.add_argument("--redis", help="URL of a Redis: one EVALSHA a request")
    options = parser.parse_args()
    floor = Floor(options.upstream, Bucket(options.redis) if options.redis else None)
    config = uvicorn.Config(floor.app(), loop="uvloop", http="httptools", access_log=False, log_level="warning")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=options.fd)])


if __name__ == "__main__":
    main()
