"""Triton's gRPC road: one `ModelStreamInfer` stream a generation, over a few connections that stay.

Sources: grpc_service.proto and docs/protocol/extension_* of triton-inference-server; what it really does was tried on
2.51.0 (docs/decisions/0007). A stream of its own for every generation, because cancelling a stream cancels all that
is on it. The client sends one message and nothing after it, so the method is called as one that takes a single
request: on the wire it is the same, and asyncio has less to do.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from grpc import ChannelConnectivity as State
from grpc import StatusCode
from tritonclient.grpc import service_pb2

from gateway.core.errors import ApiError, Unavailable, UpstreamFailed, UpstreamTimeout
from gateway.fleet.tensors import BrokenTensors, Inputs, Response
from gateway.fleet.transports import NotServed
from gateway.fleet.transports.client import Timeouts
from gateway.fleet.transports.protobuf import pack, unpack
from gateway.wire.sse import MAX_EVENT_BYTES

CHANNELS = 4
"""Connections to one host: enough that one lost segment does not hold up every stream, few enough to stay warm."""
MAX_REQUEST_BYTES = 16 << 20
DRAIN_S = 1.0
"""How long a stream whose answer is complete may take to end."""
BACKOFF_MS = 200
"""The longest pause before a lost connection is tried again."""
SETTLE_S = 2 * BACKOFF_MS / 1000
"""How long a request waits for a connection that is being tried again after it failed."""
KEEPALIVE_MS, KEEPALIVE_ANSWER_MS = 30_000, 10_000
"""How long a connection with streams on it may be silent before its server is pinged, and how long the answer may take:
in their sum a host that has vanished is noticed."""

SERVICE = "/inference.GRPCInferenceService"
_REAL_STATUS = ("triton_grpc_error", "true")
"""Asks Triton for a model's errors as statuses of the stream: without it they are text, and text alone."""


class GrpcGeneration:
    """See Generation."""

    __slots__ = ("_call", "_channel", "_failure", "_final", "_fresh", "_model", "_timeouts", "_transport", "_version")

    def __init__(self, transport: "GrpcTransport", channel: Any, call: Any, model: str, version: str) -> None:
        self._transport = transport
        self._channel = channel
        self._call = call
        self._model, self._version = model, version
        self._timeouts = transport.timeouts
        self._fresh = True  # nothing has been received yet
        self._final = False
        self._failure: ApiError | None = None

    async def read(self) -> Sequence[Response]:
        """See Generation. Nothing is read ahead: what nobody has asked for stays behind HTTP/2's window."""
        while not self._final:
            message = await self._next()
            if message is grpc.aio.EOF:
                break
            if message.error_message:
                self.close()
                raise await self._failed("error message")
            response = message.infer_response
            self._final = response.parameters["triton_final_response"].bool_param
            self._fresh = False
            if response.outputs:  # the last message of a stream may be nothing but its end
                try:
                    return (unpack(response),)
                except BrokenTensors as problem:
                    self.close()
                    raise UpstreamFailed(
                        "The model's server sent an answer that cannot be read.", detail=str(problem)
                    ) from problem
        return ()

    async def _next(self) -> Any:
        limit = self._timeouts.first if self._fresh else self._timeouts.between
        try:
            async with asyncio.timeout(limit):
                return await self._call.read()
        except TimeoutError as problem:
            self.close()
            raise UpstreamTimeout(
                "The model's server did not answer in time.", detail=f"silent for {limit}s"
            ) from problem
        except grpc.RpcError as problem:
            raise await self._ended(problem.code()) from None  # the problem holds Triton's words
        except asyncio.CancelledError:
            if self._failure is not None:  # it is the call that was cancelled, not the task that reads it
                raise self._failure from None
            if not _leaving():  # and not by us: its channel was closed under it
                raise _stopping() from None
            raise

    async def _ended(self, code: StatusCode) -> ApiError:
        """What the stream's status means to a client."""
        detail = f"grpc status {code.name}"
        if code is StatusCode.DEADLINE_EXCEEDED:  # we set none: it is a proxy's
            return UpstreamTimeout("The model's server did not answer in time.", detail=detail)
        state = self._channel.get_state()
        if code is not StatusCode.UNAVAILABLE or state is State.READY:
            return await self._failed(detail, unknown=code is StatusCode.NOT_FOUND)
        if self._fresh and state is State.TRANSIENT_FAILURE:  # it was never taken on
            return _unreachable(detail)
        return UpstreamFailed("The model's server closed the connection.", detail=detail)

    async def _failed(self, detail: str, *, unknown: bool = True) -> ApiError:
        """The server has ended the generation. What it says is not relayed, because it tells of its insides, nor
        understood, because it changes with every version: where it may be that the model is `unknown` there, it is
        asked. All other failures are the model's own, as on the HTTP road, and take nothing out of service."""
        if not self._fresh:
            return UpstreamFailed("The model's server failed while it answered.", detail=detail)
        if unknown and not await self._transport.serves(self._channel, self._model, self._version):
            return NotServed("The model is not ready on its server.", detail=detail, retry_after_ms=1000)
        return UpstreamFailed("The model's server refused the request.", detail=detail)

    def finish(self) -> None:
        """See Generation."""
        if self._final:
            self._transport.expire(self._call)
        else:
            self._transport.drain(self)

    async def rest(self) -> None:
        """Read on to the end."""
        while await self.read():
            pass

    def close(self) -> None:
        """See Generation."""
        self._failure = self._failure or UpstreamFailed("The answer was given up.", detail="abandoned")
        self._call.cancel()

    def hang_up(self) -> None:
        """Close from outside."""
        self._failure = _stopping()
        self._call.cancel()


class GrpcTransport:
    """One endpoint over gRPC."""

    def __init__(self, host: str, port: int, timeouts: Timeouts) -> None:
        self._target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.timeouts = timeouts
        self._channels = [self._connect() for _ in range(CHANNELS)]
        self._methods = [_method(channel) for channel in self._channels]
        self._turn = 0
        self._open: dict[Any, GrpcGeneration] = {}
        self._draining: set[asyncio.Task[None]] = set()

    async def generate(self, model: str, version: str, inputs: Inputs, traceparent: bytes | None) -> GrpcGeneration:
        """See Transport."""
        metadata = (_REAL_STATUS,) if traceparent is None else (_REAL_STATUS, ("traceparent", traceparent.decode()))
        try:
            turn = await self._next_channel()
            channel = self._channels[turn]
            call = self._methods[turn](pack(model, version, inputs), metadata=metadata)
        except grpc.aio.UsageError as closed:  # what gRPC says of a channel that is closed
            raise _stopping() from closed
        generation = self._open[call] = GrpcGeneration(self, channel, call, model, version)
        call.add_done_callback(self._forget)
        return generation

    async def _next_channel(self) -> int:
        """The channel whose turn it is, or else the next one that has a connection: one that was lost must not speak
        for the whole endpoint. Those without are asked to connect meanwhile. Raises Unavailable when none can."""
        first: int = (self._turn + 1) % CHANNELS
        self._turn = first
        for offset in range(CHANNELS):
            turn: int = (first + offset) % CHANNELS
            if self._channels[turn].get_state(try_to_connect=True) is State.READY:
                return turn
        await self._ready(self._channels[first])
        return first

    async def serves(self, channel: Any, model: str, version: str) -> bool:
        """Whether the server serves the model. One that does not answer this has not said no. Raises Unavailable when
        the channel is closed meanwhile."""
        ask = channel.unary_unary(
            f"{SERVICE}/ModelReady",
            request_serializer=service_pb2.ModelReadyRequest.SerializeToString,
            response_deserializer=service_pb2.ModelReadyResponse.FromString,
        )
        try:
            answer = await ask(
                service_pb2.ModelReadyRequest(name=model, version=version), timeout=self.timeouts.connect
            )
        except grpc.RpcError as problem:
            return problem.code() is not StatusCode.NOT_FOUND
        except (grpc.aio.UsageError, asyncio.CancelledError) as closed:
            if _leaving():
                raise
            raise _stopping() from closed
        return bool(answer.ready)

    async def close(self) -> None:
        """See Transport."""
        for task in self._draining:
            task.cancel()
        for generation in list(self._open.values()):
            generation.hang_up()
        await asyncio.gather(*self._draining, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in self._channels))

    @property
    def streams(self) -> int:
        """Open now."""
        return len(self._open)

    def expire(self, call: Any) -> None:
        """A stream is about to end by itself; see to it that it does."""
        timer = asyncio.get_running_loop().call_later(DRAIN_S, call.cancel)
        call.add_done_callback(lambda _: timer.cancel())

    def drain(self, generation: GrpcGeneration) -> None:
        """A stream's answer is complete, its last message has still to come."""
        task = asyncio.create_task(self._drain(generation))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def _drain(self, generation: GrpcGeneration) -> None:
        try:
            async with asyncio.timeout(DRAIN_S):
                await generation.rest()
        except (ApiError, TimeoutError):
            pass  # the answer was whole before this
        finally:
            generation.close()

    def _forget(self, call: Any) -> None:
        self._open.pop(call, None)

    async def _ready(self, channel: Any) -> None:
        """Wait for a connection, but not for longer than one may take. Raises Unavailable.

        gRPC says "transient failure" from the first failed attempt until one succeeds. A first attempt that fails is
        told at once; where the failure is an old one, the host may have come back meanwhile.
        """
        state = channel.get_state(try_to_connect=True)
        failed_before = state is State.TRANSIENT_FAILURE
        try:
            async with asyncio.timeout(SETTLE_S if failed_before else self.timeouts.connect):
                while state is not State.READY:
                    if state is State.TRANSIENT_FAILURE and not failed_before:
                        raise _unreachable("connection failed")
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
        except TimeoutError as problem:
            raise _unreachable("no connection in time") from problem

    def _connect(self) -> Any:
        options = {
            # Channels to one host would otherwise share one connection.
            "grpc.use_local_subchannel_pool": 1,
            "grpc.max_send_message_length": MAX_REQUEST_BYTES,
            "grpc.max_receive_message_length": MAX_EVENT_BYTES,
            # A window that grows with the line's speed holds megabytes for each reader that is behind.
            "grpc.http2.bdp_probe": 0,
            # A server that was not told otherwise takes a third ping without data between for an attack and hangs up;
            # gRPC's own bound of two stays.
            "grpc.keepalive_time_ms": KEEPALIVE_MS,
            "grpc.keepalive_timeout_ms": KEEPALIVE_ANSWER_MS,
            # The time that grpcio 1.85.1 really gives an answer; its own is a minute (docs/decisions/0007).
            "grpc.http2.ping_timeout_ms": KEEPALIVE_ANSWER_MS,
            "grpc.initial_reconnect_backoff_ms": BACKOFF_MS,
            "grpc.max_reconnect_backoff_ms": BACKOFF_MS,
            "grpc.min_reconnect_backoff_ms": max(BACKOFF_MS, int(self.timeouts.connect * 1000)),
            # A proxy named by the environment is for other traffic than that to our own GPUs.
            "grpc.enable_http_proxy": 0,
        }
        return grpc.aio.insecure_channel(self._target, options=list(options.items()))


def _method(channel: Any) -> Any:
    return channel.unary_stream(
        f"{SERVICE}/ModelStreamInfer",
        request_serializer=service_pb2.ModelInferRequest.SerializeToString,
        response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
    )


def _leaving() -> bool:
    """Whether it is this task that was cancelled, and not something that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _stopping() -> Unavailable:
    return Unavailable("The gateway is stopping.")


def _unreachable(detail: str) -> Unavailable:
    return Unavailable("The model's server cannot be reached.", detail=detail, retry_after_ms=1000)
