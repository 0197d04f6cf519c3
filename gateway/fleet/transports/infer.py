"""Triton's HTTP road for tensors: `infer`, whole and in raw data, and `generate_stream` for decoupled models. Endpoints
whose text takes the gRPC road are asked for tensors over HTTP too."""

from collections.abc import Callable, Sequence

from gateway.core.errors import ApiError, UpstreamFailed
from gateway.fleet.transports.client import Client, Connection, Response, Timeouts
from gateway.fleet.transports.http import HttpGeneration, refusal

MAX_ANSWER_BYTES = 64 << 20
_LENGTH = b"inference-header-content-length"


class Answered(UpstreamFailed):
    """The endpoint has answered, and not with what was asked for: no other is asked."""


class _TensorConnection(Connection):
    """A connection that keeps the one header of an answer that matters here."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: one header."""
        if self.response is not None and name.lower() == _LENGTH and value.isdigit() and len(value) <= 12:
            self.response.header_length = int(value)


class TensorTransport:
    """One endpoint."""

    def __init__(self, host: str, port: int, timeouts: Timeouts) -> None:
        self._client = Client(host, port, timeouts, _TensorConnection)

    async def infer(
        self, model: str, version: str, body: bytes, header_length: int, traceparent: bytes | None
    ) -> tuple[bytes, int | None]:
        """The whole answer, and how long its JSON is where raw data stand behind it. Raises Unavailable (NotServed),
        UpstreamFailed (Answered) or UpstreamTimeout."""
        extra = b"Inference-Header-Content-Length: %d\r\n%b" % (header_length, _trace(traceparent))
        response = await self._client.post(f"{_at(model, version)}/infer", body, extra)
        try:
            if response.status != 200:
                raise await _refused(response)
            return await _whole(response), response.header_length
        finally:
            response.close()

    async def stream(self, model: str, version: str, body: bytes, traceparent: bytes | None) -> HttpGeneration:
        """The responses to one request in JSON. Raises as `infer`."""
        response = await self._client.post(f"{_at(model, version)}/generate_stream", body, _trace(traceparent))
        if response.status != 200:
            raise await _refused(response)
        return HttpGeneration(response)

    def close(self) -> None:
        """Hang up."""
        self._client.close()


class TensorStream:
    """The responses of a decoupled model, each Triton's JSON."""

    def __init__(self, generation: HttpGeneration, closed: Callable[[], None]) -> None:
        self._generation = generation
        self._closed = closed
        self._first: Sequence[bytes] | None = None
        self._ended = False

    async def prefetch(self) -> None:
        """Read the first responses and keep them for `read`: until they are there, another endpoint may be asked."""
        self._first = await self._generation.read()

    async def read(self) -> Sequence[bytes]:
        """The next responses; empty at the end. Raises UpstreamFailed or UpstreamTimeout."""
        if self._first is not None:
            first, self._first = self._first, None
        else:
            first = await self._generation.read()
        self._ended = not first
        return first

    def close(self) -> None:
        """Done; cancels what has not come yet. May be called twice."""
        if not self._ended:
            self._generation.close()
        closed, self._closed = self._closed, lambda: None
        closed()


async def _refused(response: Response) -> ApiError:
    error = await refusal(response)
    return Answered(error.message, detail=error.detail) if isinstance(error, UpstreamFailed) else error


async def _whole(response: Response) -> bytes:
    chunks, size = [], 0
    try:
        while chunk := await response.read():
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise UpstreamFailed("The model's answer is too large.", detail=f"over {MAX_ANSWER_BYTES} bytes")
            chunks.append(chunk)
    except UpstreamFailed as problem:
        raise Answered(problem.message, detail=problem.detail) from problem
    return b"".join(chunks)


def _at(model: str, version: str) -> str:
    return f"/v2/models/{model}/versions/{version}" if version else f"/v2/models/{model}"


def _trace(traceparent: bytes | None) -> bytes:
    return b"traceparent: %b\r\n" % traceparent if traceparent else b""
