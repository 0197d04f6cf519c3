"""A host that vanishes without a word, as behind a cut cable: what was running there ends in bounded time."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from gateway.core.errors import ApiError, Unavailable, UpstreamFailed, UpstreamTimeout
from gateway.fleet.file import Fleet
from gateway.fleet.transports import grpc
from gateway.fleet.transports.client import Timeouts
from lab.paced import Road, Served, by, order, rest
from tests.integration.embedded_fixtures import need_triton
from tests.support.eventually import eventually
from tests.support.paced import Paced, paced_running

LONG_S, SHORT_S = 30.0, 1.0
LATE_S = 1.5
"""What a busy machine may add to a bound."""
PING_S, PONG_S = 1.0, 0.5


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paced]:
    need_triton()
    with paced_running(tmp_path_factory.mktemp("data")) as running:
        yield running


@pytest.fixture(autouse=True)
def _quick_keepalive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc, "KEEPALIVE_MS", int(PING_S * 1000))
    monkeypatch.setattr(grpc, "KEEPALIVE_ANSWER_MS", int(PONG_S * 1000))


class Line:
    """Proxies on loopback that forward until they are cut: then their connections stay, and nothing passes."""

    def __init__(self) -> None:
        self._whole = asyncio.Event()
        self._whole.set()
        self._servers: list[asyncio.Server] = []
        self._pumps: set[asyncio.Task[None]] = set()

    async def to(self, host: str, port: int) -> str:
        """The address of a proxy to there."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection(host, port)
            for one in (self._pump(reader, far_writer), self._pump(far_reader, writer)):
                self._pumps.add(asyncio.create_task(one))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self._servers.append(server)
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def cut(self) -> float:
        """From now on nothing passes, either way; the time."""
        self._whole.clear()
        return time.monotonic()

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()
        finally:
            writer.transport.abort()


@asynccontextmanager
async def over(line: Line, road: Road, fleet: Fleet, timeouts: Timeouts) -> AsyncIterator[Served]:
    """The model at the end of the line, its health too."""
    (endpoint,) = by(road, fleet).endpoints
    assert endpoint.grpc_address is not None
    far = msgspec.structs.replace(
        endpoint, http=f"http://{await line.to(*endpoint.address)}", grpc=await line.to(*endpoint.grpc_address)
    )
    served = Served(msgspec.structs.replace(fleet, endpoints=(far,)), timeouts)
    watch = asyncio.create_task(served.health.watch())
    try:
        await eventually(served.ready, within_s=20, what="the model's readiness")
        yield served
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await served.router.close()
        await line.close()


async def fails(line: Line, served: Served, wishes: str, *, first: bool) -> tuple[ApiError, float]:
    """How a generation ends that is cut off before its first token or behind it, and after how many seconds."""
    opening = asyncio.create_task(served.open(wishes, 1000))
    if first:
        await asyncio.sleep(0.5)  # it is on its way; health has seen the host a second ago
        cut = line.cut()
        with pytest.raises(ApiError) as raised:
            await opening
        return raised.value, time.monotonic() - cut
    choice = await opening
    await choice.read()
    cut = line.cut()
    with pytest.raises(ApiError) as raised:
        await rest(choice)
    choice.close()
    return raised.value, time.monotonic() - cut


PREFILL, DECODE = order(prefill_ms=20_000), order(token_ms=20)


@pytest.mark.parametrize(("wishes", "first"), [(PREFILL, True), (DECODE, False)], ids=["prefill", "decode"])
async def test_over_grpc_a_vanished_host_is_noticed_by_the_ping_it_does_not_answer(
    paced: Paced, wishes: str, first: bool
) -> None:
    line = Line()
    async with over(line, "grpc", paced.fleet, Timeouts(SHORT_S, LONG_S, LONG_S)) as served:
        problem, after = await fails(line, served, wishes, first=first)
        assert type(problem) in (UpstreamFailed, Unavailable)
        assert PONG_S <= after < PING_S + PONG_S + LATE_S
        await nobody_waits(served)


@pytest.mark.parametrize("road", ["http", "grpc"])
@pytest.mark.parametrize(("wishes", "first"), [(PREFILL, True), (DECODE, False)], ids=["prefill", "decode"])
async def test_on_both_roads_a_vanished_host_is_noticed_by_the_time_between_tokens(
    paced: Paced, road: Road, wishes: str, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc, "KEEPALIVE_MS", int(LONG_S * 1000))
    line = Line()
    bounds = Timeouts(SHORT_S, SHORT_S if first else LONG_S, LONG_S if first else SHORT_S)
    async with over(line, road, paced.fleet, bounds) as served:
        problem, after = await fails(line, served, wishes, first=first)
        assert type(problem) is UpstreamTimeout
        assert after < SHORT_S + LATE_S
        await nobody_waits(served)


async def nobody_waits(served: Served) -> None:
    """The host is out of service soon, so that the next request is refused at once."""
    await eventually(lambda: not served.ready(), within_s=5, what="the end of the model's readiness")
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await served.open("hello")
    assert time.monotonic() - began < 0.1
