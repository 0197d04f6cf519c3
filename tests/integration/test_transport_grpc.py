"""The gRPC road against a server whose every word is the test's: what a real Triton seldom or never says."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from gateway.core.errors import ApiError, Unavailable
from gateway.fleet.tensors import Inputs
from gateway.fleet.transports.client import Timeouts
from gateway.fleet.transports.grpc import GrpcGeneration, GrpcTransport
from tests.support.eventually import eventually

QUICK = Timeouts(0.5, 0.5, 0.5)
NOTHING = Inputs({}, {})

Answering = Callable[[Any], Awaitable[None]]


class Triton(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answers each stream as `answering` does, which is given the stream to write to."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    def service(self, call: Any) -> Any:
        """grpc: who answers this method."""
        if not call.method.endswith("/ModelStreamInfer"):
            return None

        async def stream(request: Any, context: Any) -> None:
            await self._answering(context)

        return grpc.unary_stream_rpc_method_handler(
            stream,
            service_pb2.ModelInferRequest.FromString,
            service_pb2.ModelStreamInferResponse.SerializeToString,
        )


@asynccontextmanager
async def answered(answering: Answering, timeouts: Timeouts = QUICK) -> AsyncIterator[GrpcTransport]:
    """The road to a server that answers so; at the end no stream is open on it."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Triton(answering),))
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
