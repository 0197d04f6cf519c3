"""The gRPC road against a server whose every word is the test's: what a real Triton seldom or never says."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from gateway.core.errors import ApiError, Unavailable, UpstreamFailed, UpstreamTimeout
from gateway.fleet.tensors import Inputs
from gateway.fleet.transports import NotServed
from gateway.fleet.transports.client import Timeouts
from gateway.fleet.transports.grpc import GrpcGeneration, GrpcTransport
from tests.support.eventually import eventually

QUICK = Timeouts(0.5, 0.5, 0.5)
NOTHING = Inputs({}, {})

Code = grpc.StatusCode
Answering = Callable[[Any], Awaitable[None]]
FAILURES = sorted(set(Code) - {Code.OK, Code.DEADLINE_EXCEEDED}, key=lambda code: code.name)


class Triton(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answers each stream as `answering` does, which is given the stream to write to, and when it is asked whether the
    model is ready, `ready`; None: that it does not know this method."""

    def __init__(self, answering: Answering, ready: bool | None) -> None:
        self._answering = answering
        self._ready = ready

    def service(self, call: Any) -> Any:
        """grpc: who answers this method."""
        if call.method.endswith("/ModelStreamInfer"):
            return grpc.unary_stream_rpc_method_handler(
                self._stream,
                service_pb2.ModelInferRequest.FromString,
                service_pb2.ModelStreamInferResponse.SerializeToString,
            )
        if call.method.endswith("/ModelReady") and self._ready is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._model_ready,
                service_pb2.ModelReadyRequest.FromString,
                service_pb2.ModelReadyResponse.SerializeToString,
            )
        return None

    async def _stream(self, request: Any, context: Any) -> None:
        await self._answering(context)

    async def _model_ready(self, request: Any, context: Any) -> Any:
        assert (request.name, request.version) == ("m", "")
        return service_pb2.ModelReadyResponse(ready=self._ready)


@asynccontextmanager
async def answered(
    answering: Answering, timeouts: Timeouts = QUICK, ready: bool | None = True
) -> AsyncIterator[GrpcTransport]:
    """The road to a server that answers so; at the end no stream is open on it."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Triton(answering, ready),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    transport = GrpcTransport("127.0.0.1", port, timeouts)
    try:
        yield transport
        await eventually(lambda: transport.streams == 0, what="the end of all streams")
    finally:
        await transport.close()
        await server.stop(None)


async def start(transport: GrpcTransport) -> GrpcGeneration:
    return await transport.generate("m", "", NOTHING, None)


async def on_and_on(stream: Any) -> None:
    """Tokens without end."""
    while True:
        await stream.write(token())
        await asyncio.sleep(0.01)


async def never(stream: Any) -> None:
    """No word at all."""
    await asyncio.Event().wait()


def ends(code: grpc.StatusCode, tokens: int = 0) -> Answering:
    """That status after so many tokens, with words that are nobody's business."""

    async def answering(stream: Any) -> None:
        for _ in range(tokens):
            await stream.write(token())
        await stream.abort(code, "insides of the server")

    return answering


def says(words: str, tokens: int = 0) -> Answering:
    """An error message, as Triton tells what it refuses itself."""

    async def answering(stream: Any) -> None:
        for _ in range(tokens):
            await stream.write(token())
        await stream.write(service_pb2.ModelStreamInferResponse(error_message=words))

    return answering


def token() -> Any:
    message = service_pb2.ModelStreamInferResponse()
    message.infer_response.outputs.add(name="number", datatype="INT32", shape=(1,))
    message.infer_response.raw_output_contents.append(bytes(4))
    return message


async def to_the_end(generation: GrpcGeneration) -> ApiError:
    """The error that ends it."""
    with pytest.raises(ApiError) as raised:
        while await generation.read():
            pass
    told = f"{raised.value.message} {raised.value.detail} {raised.value.__cause__!r}"
    assert "insides" not in told
    return raised.value


async def test_a_road_that_was_closed_takes_no_generation_and_says_so() -> None:
    async with answered(on_and_on) as transport:
        await transport.close()
        with pytest.raises(Unavailable, match="stopping"):
            await start(transport)


async def test_a_road_that_is_closed_while_it_connects_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        transport = GrpcTransport("127.0.0.1", silent.getsockname()[1], QUICK)
        starting = asyncio.create_task(start(transport))
        await asyncio.sleep(0.1)
        assert not starting.done()
        await transport.close()
        with pytest.raises(Unavailable, match="stopping"):
            await starting


@pytest.mark.parametrize("answering", [on_and_on, never])
async def test_a_channel_that_is_closed_under_a_reader_ends_the_answer_and_not_the_readers_task(
    answering: Answering,
) -> None:
    async with answered(answering, Timeouts(5, 5, 5)) as transport:
        reading = asyncio.create_task(to_the_end(await start(transport)))
        await asyncio.sleep(0.1)
        await asyncio.gather(*(channel.close() for channel in transport._channels))
        assert isinstance(await asyncio.wait_for(reading, 1), Unavailable)


async def test_a_reader_that_is_cancelled_is_cancelled() -> None:
    async with answered(never, Timeouts(5, 5, 5)) as transport:
        reading = asyncio.create_task((await start(transport)).read())
        await asyncio.sleep(0.1)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading


@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
async def test_a_status_is_a_failure_of_the_server_whose_name_alone_is_kept(code: grpc.StatusCode, tokens: int) -> None:
    async with answered(ends(code, tokens)) as transport:
        problem = await to_the_end(await start(transport))
    assert type(problem) is UpstreamFailed
    assert problem.detail == f"grpc status {code.name}"
    assert ("while it answered" in problem.message) == bool(tokens)


@pytest.mark.parametrize("tokens", [0, 1])
async def test_a_deadline_that_somebody_on_the_way_has_set_is_a_timeout(tokens: int) -> None:
    async with answered(ends(Code.DEADLINE_EXCEEDED, tokens)) as transport:
        assert type(await to_the_end(await start(transport))) is UpstreamTimeout


@pytest.mark.parametrize("refusing", [ends(Code.NOT_FOUND), says("insides of the server")], ids=["status", "message"])
@pytest.mark.parametrize(("ready", "told"), [(False, NotServed), (True, UpstreamFailed), (None, UpstreamFailed)])
async def test_a_model_is_not_served_when_the_server_says_so_in_whatever_words(
    refusing: Answering, ready: bool | None, told: type[ApiError]
) -> None:
    async with answered(refusing, ready=ready) as transport:
        assert type(await to_the_end(await start(transport))) is told


async def test_an_error_message_in_mid_stream_is_a_failure_whatever_is_served() -> None:
    async with answered(says("insides of the server", tokens=1), ready=False) as transport:
        assert type(await to_the_end(await start(transport))) is UpstreamFailed


async def test_a_request_that_is_larger_than_the_road_takes_is_a_failure() -> None:
    async with answered(on_and_on) as transport:
        prompt = Inputs({"text_input": "x" * (17 << 20)}, {"text_input": "BYTES"})
        problem = await to_the_end(await transport.generate("m", "", prompt, None))
    assert type(problem) is UpstreamFailed
    assert problem.detail == "grpc status RESOURCE_EXHAUSTED"


async def test_a_server_that_ends_in_mid_stream_has_closed_the_connection() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Triton(on_and_on, ready=True),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    transport = GrpcTransport("127.0.0.1", port, Timeouts(5, 5, 5))
    generation = await start(transport)
    assert await generation.read()
    await server.stop(None)
    problem = await to_the_end(generation)
    assert type(problem) is UpstreamFailed
    await transport.close()
