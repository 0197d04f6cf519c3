"""From a model and a request to a running generation: choose an endpoint, and once, before the first token, another."""

import importlib
import itertools
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from gateway.core.delta import Delta
from gateway.core.errors import Unavailable, UpstreamFailed
from gateway.core.prompt import Sampling
from gateway.core.tensor import Tensor
from gateway.fleet.adapters import tensors, vllm
from gateway.fleet.file import Endpoint, Fleet
from gateway.fleet.health import Health
from gateway.fleet.models import Served, ServedModel, ServedTensors
from gateway.fleet.transports import Generation, NotServed, Transport
from gateway.fleet.transports.client import Timeouts
from gateway.fleet.transports.http import HttpTransport
from gateway.fleet.transports.infer import Answered, TensorStream, TensorTransport

ATTEMPTS = 2
Started = TypeVar("Started")


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What all generations of one request have in common."""

    sampling: Sampling
    max_tokens: int
    traceparent: bytes | None


class Choice:
    """One choice's generation, its responses decoded."""

    __slots__ = ("_decoder", "_ended", "_failure", "_first", "_generation", "_router", "endpoint")

    def __init__(self, router: "Router", endpoint: str, generation: Generation, decoder: vllm.Decoder) -> None:
        self._router = router
        self._generation = generation
        self._decoder = decoder
        self._first: list[Delta] | None = None
        self._failure: UpstreamFailed | None = None  # came behind deltas, which are told (and charged) first
        self.endpoint = endpoint
        self._ended = False

    @property
    def finished(self) -> bool:
        """The delta with the finish reason has been read."""
        return self._ended and self._first is None

    async def prefetch(self) -> None:
        """Read the first deltas and keep them for `read`: until they are there, the request may still go elsewhere."""
        self._first = await self.read()

    async def read(self) -> list[Delta]:
        """The next deltas; empty after the one with the finish reason. Raises UpstreamFailed or UpstreamTimeout."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._ended:
            return []
        if self._failure is not None:
            raise self._failure
        responses = await self._generation.read()
        if not responses:
            raise UpstreamFailed("The model's server ended the answer too early.", detail="no finish reason")
        deltas: list[Delta] = []
        for response in responses:
            try:
                delta = self._decoder.delta(response)
            except UpstreamFailed as problem:
                if not deltas:
                    raise
                self._failure = problem
                break
            deltas.append(delta)
            if delta.finish_reason is not None:
                self._ended = True
                self._generation.finish()
                break
        return deltas

    def close(self) -> None:
        """Done; cancels what is not finished."""
        if not self._ended:
            self._generation.close()
        self._router.closed(self.endpoint)


class Router:
    """Sends generations to the endpoints of a fleet."""

    def __init__(self, fleet: Fleet, health: Health, timeouts: Timeouts) -> None:
        self._health = health
        self._transports: dict[str, Transport] = {
            endpoint.name: _transport(endpoint, timeouts) for endpoint in fleet.endpoints
        }
        self._tensors = {endpoint.name: TensorTransport(*endpoint.address, timeouts) for endpoint in fleet.endpoints}
        self._running = dict.fromkeys(self._transports, 0)
        self._turn = itertools.count()

    async def open(self, model: ServedModel, text: str, asked: Asked, choice: int, tried: list[str]) -> Choice:
        """A generation whose first deltas are there; the endpoints that it went to are added to `tried`. Raises
        Unavailable, UpstreamFailed or UpstreamTimeout."""
        start = partial(self._start, model, text, asked, choice)
        return await self._somewhere(model, tried, start)

    async def infer(
        self, model: ServedTensors, asked: tensors.Asked, traceparent: bytes | None, tried: list[str]
    ) -> tuple[Tensor, ...]:
        """The tensors that a model makes of others. Raises Unavailable, UpstreamFailed or UpstreamTimeout."""
        body, header_length = tensors.request(asked)

        async def start(endpoint: Endpoint) -> tuple[bytes, int | None]:
            triton = model.entry.triton
            self._running[endpoint.name] += 1
            try:
                return await self._tensors[endpoint.name].infer(
                    triton.name, triton.version, body, header_length, traceparent
                )
            finally:
                self.closed(endpoint.name)

        return tensors.answer(*await self._somewhere(model, tried, start))

    async def stream(
        self, model: ServedTensors, body: bytes, traceparent: bytes | None, tried: list[str]
    ) -> TensorStream:
        """The responses of a decoupled model to one request in JSON, the first of them there. Raises as `infer`."""

        async def start(endpoint: Endpoint) -> TensorStream:
            triton = model.entry.triton
            self._running[endpoint.name] += 1
            opened: TensorStream | None = None
            try:
                transport = self._tensors[endpoint.name]
                generation = await transport.stream(triton.name, triton.version, body, traceparent)
                opened = TensorStream(generation, lambda: self.closed(endpoint.name))
                await opened.prefetch()
            except BaseException:
                if opened is None:
                    self.closed(endpoint.name)
                else:
                    opened.close()
                raise
            return opened

        return await self._somewhere(model, tried, start)

    async def _somewhere(
        self, model: Served, tried: list[str], start: Callable[[Endpoint], Awaitable[Started]]
    ) -> Started:
        """What `start` makes of a ready endpoint, or of a second one where the first gave nothing back."""
        while True:
            endpoint = self._choose(model.endpoints, model.entry.name, tried)
            tried.append(endpoint.name)
            try:
                return await start(endpoint)
            except Answered:
                raise
            except (Unavailable, UpstreamFailed) as problem:
                if isinstance(problem, NotServed):
                    self._health.refused(endpoint.name, model.entry.name)
                elif isinstance(problem, Unavailable):
                    self._health.unreachable(endpoint.name)
                if len(tried) == ATTEMPTS or not self._untried(model.endpoints, model.entry.name, tried):
                    raise

    async def _start(self, model: ServedModel, text: str, asked: Asked, choice: int, endpoint: Endpoint) -> Choice:
        triton, transport = model.entry.triton, self._transports[endpoint.name]
        inputs = vllm.request(text, asked.sampling, asked.max_tokens, choice)
        self._running[endpoint.name] += 1
        opened: Choice | None = None
        try:
            generation = await transport.generate(triton.name, triton.version, inputs, asked.traceparent)
            opened = Choice(self, endpoint.name, generation, vllm.Decoder(choice, asked.sampling.logprobs))
            await opened.prefetch()
        except BaseException:
            if opened is None:
                self.closed(endpoint.name)
            else:
                opened.close()
            raise
        return opened

    def _choose(self, endpoints: Sequence[Endpoint], model: str, tried: list[str]) -> Endpoint:
        """The ready endpoint with the fewest generations of ours, in turn where that is several."""
        ready = self._untried(endpoints, model, tried)
        if not ready:
            raise Unavailable(
                f"The model '{model}' is not being served right now. Try again shortly.",
                detail="no ready endpoint",
                retry_after_ms=2000,
            )
        if len(ready) == 1:
            return ready[0]
        turn = next(self._turn)
        rotated = (ready[(turn + i) % len(ready)] for i in range(len(ready)))
        return min(rotated, key=lambda e: self._running[e.name])

    def _untried(self, endpoints: Sequence[Endpoint], model: str, tried: list[str]) -> list[Endpoint]:
        """The ready endpoints that this generation has not been sent to."""
        return [e for e in endpoints if e.name not in tried and self._health.ready(e.name, model)]

    def closed(self, endpoint: str) -> None:
        """A generation there has ended."""
        self._running[endpoint] -= 1

    async def close(self) -> None:
        """Hang up everywhere."""
        for transport in self._transports.values():
            await transport.close()
        for road in self._tensors.values():
            road.close()


def _transport(endpoint: Endpoint, timeouts: Timeouts) -> Transport:
    """The road that the fleet file names. gRPC is loaded by whom it serves: it costs others 0.4 s at their start."""
    if endpoint.transport == "http" or endpoint.grpc_address is None:
        return HttpTransport(*endpoint.address, timeouts)
    made: Transport = importlib.import_module("gateway.fleet.transports.grpc").GrpcTransport(
        *endpoint.grpc_address, timeouts
    )
    return made
