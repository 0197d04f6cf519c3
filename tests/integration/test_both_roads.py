"""HTTP and gRPC to a real Triton keep one contract: the router above them cannot tell which it is on."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.error import URLError

import msgspec
import pytest

from gateway.core.delta import Delta
from gateway.core.errors import ApiError, Unavailable, UpstreamFailed, UpstreamTimeout
from gateway.embedded.process import children
from gateway.fleet.file import Fleet
from gateway.fleet.transports import NotServed
from gateway.fleet.transports.client import Timeouts
from gateway.fleet.transports.grpc import GrpcTransport
from gateway.fleet.transports.http import HttpTransport
from lab.paced import Road, Served, by, order, rest
from lab.ports import free_ports
from tests.integration.embedded_fixtures import gone, need_triton
from tests.support.eventually import eventually
from tests.support.paced import Paced, paced_running

TIMEOUTS = Timeouts(1.0, 10.0, 10.0)
REFUSALS = (
    "UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG", "UNAVAILABLE", "UNSUPPORTED", "ALREADY_EXISTS", "CANCELLED",
)  # fmt: skip
"""All that a model can answer with."""
BOTH = pytest.mark.parametrize("road", ["http", "grpc"])


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paced]:
    need_triton()
    with paced_running(tmp_path_factory.mktemp("data")) as running:
        yield running


@asynccontextmanager
async def serving(fleet: Fleet, timeouts: Timeouts = TIMEOUTS) -> AsyncIterator[Served]:
    """A router whose health has seen the model; afterwards nothing of it is left in the event loop."""
    before = asyncio.all_tasks()
    served = Served(fleet, timeouts)
    watch = asyncio.create_task(served.health.watch())
    try:
        await eventually(served.ready, within_s=20, what="the model's readiness")
        yield served
        await eventually(lambda: open_streams(served) == 0, what="the end of all streams")
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        await served.router.close()
    await eventually(lambda: asyncio.all_tasks() <= before, what="the end of all tasks")


def open_streams(served: Served) -> int:
    """Generations that still hold something of their road: a stream of gRPC, or a connection that is not free."""
    (transport,) = served.router._transports.values()
    if isinstance(transport, GrpcTransport):
        return transport.streams
    assert isinstance(transport, HttpTransport)
    return transport._client.connections - len(transport._client._idle)


def idle(paced: Paced) -> bool:
    """Whether nothing runs there. A server that has just begun to serve opens its metrics port last."""
    try:
        return paced.metric("paced_running") == 0
    except URLError:
        return False


@asynccontextmanager
async def on(paced: Paced, road: Road, timeouts: Timeouts = TIMEOUTS) -> AsyncIterator[Served]:
    await eventually(lambda: idle(paced), within_s=20, what="an idle model")
    async with serving(by(road, paced.fleet), timeouts) as served:
        yield served


@BOTH
async def test_deltas_come_in_order_and_the_last_one_says_why(paced: Paced, road: Road) -> None:
    async with on(paced, road) as served:
        deltas = await served.answer("a prompt", 200)
    assert "".join(delta.text for delta in deltas).split() == [str(number) for number in range(200)]
    assert [delta.finish_reason for delta in deltas] == [None] * 199 + ["length"]
    assert {delta.prompt_tokens for delta in deltas} == {len("a prompt")}
    assert {delta.completion_tokens for delta in deltas} == {1}


@BOTH
async def test_an_end_that_is_a_message_of_its_own_adds_nothing(paced: Paced, road: Road) -> None:
    async with on(paced, road) as served:
        for _ in range(20):
            deltas = await served.answer(order(late_end=True), 3)
            assert [delta.finish_reason for delta in deltas] == [None, None, "length"]


@BOTH
async def test_text_of_any_language_passes_unchanged(paced: Paced, road: Road) -> None:
    text = '猫\n"cat"\\ \u2028 \x00 🐈'
    async with on(paced, road) as served:
        (delta,) = await served.answer(order(first=text), 1)
    assert delta.text == f"{text}0 "


@BOTH
async def test_tokens_come_as_they_are_made_and_not_together(paced: Paced, road: Road) -> None:
    async with on(paced, road) as served:
        began = time.monotonic()
        choice = await served.open(order(token_ms=100), 8)
        first = time.monotonic() - began
        await rest(choice)
        choice.close()
        assert time.monotonic() - began > 0.7
        assert first < 0.3


@BOTH
async def test_a_prompt_of_four_megabytes_arrives_whole(paced: Paced, road: Road) -> None:
    prompt = 'x\n"猫' * ((4 << 20) // 6)
    async with on(paced, road) as served:
        deltas = await served.answer(prompt, 2)
    assert {delta.prompt_tokens for delta in deltas} == {len(prompt.encode())}


@BOTH
async def test_an_error_in_mid_stream_comes_behind_what_was_said_without_tritons_words(
    paced: Paced, road: Road
) -> None:
    async with on(paced, road) as served:
        choice = await served.open(order(fail_after=3, token_ms=5), 9)
        deltas: list[Delta] = []
        with pytest.raises(UpstreamFailed) as raised:
            while more := await choice.read():
                deltas += more
        choice.close()
        assert [delta.text.strip() for delta in deltas] == ["0", "1", "2"]
        hide(raised.value)
        assert len(await served.answer("and on")) == 5


def hide(problem: ApiError) -> None:
    """Nothing of the server's insides is in what clients or logs get."""
    chain = f"{problem.message} {problem.detail} {problem.__cause__!r}"
    assert "insides" not in chain


@BOTH
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_models_own_refusal_is_a_failure_that_takes_nothing_out_of_service(
    paced: Paced, road: Road, refusal: str
) -> None:
    async with on(paced, road) as served:
        with pytest.raises(UpstreamFailed) as raised:
            await served.open(order(refuse=refusal))
        hide(raised.value)
        assert served.ready()


@BOTH
async def test_a_model_that_is_not_there_is_not_served(paced: Paced, road: Road) -> None:
    async with on(paced, road) as served:
        elsewhere = msgspec.structs.replace(served.model.entry.triton, name="no-such-model")
        served.model = type(served.model)(
            msgspec.structs.replace(served.model.entry, triton=elsewhere),
            served.model.abilities, served.model.counter, served.model.renderer, served.model.endpoints,
        )  # fmt: skip
        with pytest.raises(NotServed):
            await served.open("hello")
        assert not served.ready()


@BOTH
async def test_cancellation_while_decoding_stops_the_model_within_ten_tokens(paced: Paced, road: Road) -> None:
    async with on(paced, road) as served:
        made = paced.metric("paced_tokens")
        choice = await served.open(order(token_ms=10), 500)
        for _ in range(20):
            read = await choice.read()
        choice.close()
        told = int(read[-1].text)
        await eventually(lambda: paced.metric("paced_running") == 0, what="the model's stop")
        assert 0 <= paced.metric("paced_tokens") - made - (told + 1) <= 10


async def cancelled_in_prefill(paced: Paced, served: Served) -> float:
    """Seconds from the cancellation of a request in its prefill of 1.5 s to the model's stop."""
    made = paced.metric("paced_tokens")
    asked = asyncio.create_task(served.open(order(prefill_ms=1500, token_ms=20), 100))
    await eventually(lambda: paced.metric("paced_running") == 1, what="the prefill")
    await asyncio.sleep(0.3)
    asked.cancel()
    left = time.monotonic()
    await asyncio.gather(asked, return_exceptions=True)
    await eventually(lambda: paced.metric("paced_running") == 0, what="the model's stop")
    stopped = paced.metric("paced_stopped_at_seconds")
    assert paced.metric("paced_tokens") - made <= 10
    return stopped - left


async def test_cancellation_in_prefill_over_grpc_stops_the_model_within_50_ms(paced: Paced) -> None:
    async with on(paced, "grpc") as served:
        assert sorted([await cancelled_in_prefill(paced, served) for _ in range(5)])[-1] < 0.050


async def test_cancellation_in_prefill_over_http_stops_the_model_at_its_next_write(paced: Paced) -> None:
    async with on(paced, "http") as served:
        assert 0.9 < await cancelled_in_prefill(paced, served) < 1.5


@BOTH
async def test_a_reader_that_falls_behind_holds_little_memory_and_loses_nothing(paced: Paced, road: Road) -> None:
    padding, tokens = 64 << 10, 1500  # 94 MiB
    async with on(paced, road) as served:
        await served.answer("to make what is made once")
        before = resident()
        choice = await served.open(order(padding=padding), tokens)
        await eventually(lambda: paced.metric("paced_running") == 0, within_s=30, what="the whole answer")
        await asyncio.sleep(0.5)  # time in which a transport that reads ahead would
        assert resident() - before < 16 << 20
        deltas = [await choice.read()]
        while deltas[-1]:
            deltas.append(await choice.read())
        choice.close()
    assert [delta.text.split()[0] for read in deltas for delta in read] == [str(number) for number in range(tokens)]


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@BOTH
async def test_silence_before_the_first_token_and_between_two_is_bounded(paced: Paced, road: Road) -> None:
    async with on(paced, road, Timeouts(1.0, 0.5, 0.2)) as served:
        began = time.monotonic()
        with pytest.raises(UpstreamTimeout):
            await served.open(order(prefill_ms=3000))
        assert 0.4 < time.monotonic() - began < 1.5
        choice = await served.open(order(prefill_ms=300, token_ms=2000))
        assert await choice.read()
        began = time.monotonic()
        with pytest.raises(UpstreamTimeout):
            await choice.read()
        assert time.monotonic() - began < 1.0
        choice.close()
        await eventually(lambda: paced.metric("paced_running") == 0, within_s=6, what="the model's stop")


@BOTH
async def test_a_slow_reader_is_no_silent_server(paced: Paced, road: Road) -> None:
    async with on(paced, road, Timeouts(1.0, 0.5, 0.2)) as served:
        choice = await served.open("hello", 20)
        await asyncio.sleep(0.5)
        assert len(await rest(choice)) == 20
        choice.close()


@BOTH
async def test_many_generations_run_side_by_side(paced: Paced, road: Road) -> None:
    async with on(paced, road) as served:
        answers = await asyncio.gather(*(served.answer(order(token_ms=5, first=f"{i}:"), 20) for i in range(40)))
    for i, deltas in enumerate(answers):
        assert deltas[0].text.startswith(f"{i}:0")
        assert len(deltas) == 20


@BOTH
async def test_a_gateway_that_stops_ends_its_generations_with_a_word(paced: Paced, road: Road) -> None:
    async with on(paced, road) as served:
        choice = await served.open(order(token_ms=50), 100)
        reading = asyncio.create_task(rest(choice))
        await asyncio.sleep(0.1)
        await served.router.close()
        with pytest.raises((Unavailable, UpstreamFailed)):
            await reading
        choice.close()
        await eventually(lambda: paced.metric("paced_running") == 0, what="the model's stop")


@BOTH
async def test_nobody_there_is_unavailable_at_once(paced: Paced, road: Road) -> None:
    fleet = by(road, paced.fleet)
    (port,) = free_ports(1)
    nowhere = msgspec.structs.replace(fleet.endpoints[0], http=f"http://127.0.0.1:{port}", grpc=f"127.0.0.1:{port}")
    served = Served(msgspec.structs.replace(fleet, endpoints=(nowhere,)), TIMEOUTS)
    for _ in range(3):
        served.health._ready.add(("here", "paced"))
        began = time.monotonic()
        with pytest.raises(Unavailable) as raised:
            await served.open("hello")
        assert type(raised.value) is Unavailable
        assert time.monotonic() - began < 0.9
        assert not served.ready()
    await served.router.close()


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("victim", ["stub", "server"])
async def test_a_backend_that_is_killed_ends_the_answer_in_bounded_time_and_serves_again(
    tmp_path: Path, road: Road, victim: str
) -> None:
    need_triton()
    with paced_running(tmp_path) as own:
        async with on(own, road) as served:
            server = own.hosted.pid
            (stub,) = [child for child in children(server) if not gone(child)]
            choice = await served.open(order(token_ms=50), 1000)
            await choice.read()
            os.kill(stub if victim == "stub" else server, signal.SIGKILL)
            killed = time.monotonic()
            with pytest.raises((UpstreamFailed, UpstreamTimeout)) as raised:
                await rest(choice)
            assert time.monotonic() - killed < 5
            choice.close()
            hide(raised.value)
            await asyncio.to_thread(own.hosted.heard, "works again", killed)
            again = await eventually(lambda: answered(served), within_s=10, what="an answer")
            assert len(again) == 5


async def answered(served: Served) -> list[Delta]:
    try:
        return await served.answer("hello")
    except ApiError:
        return []
