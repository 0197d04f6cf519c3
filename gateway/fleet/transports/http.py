"""Triton's HTTP road: `POST /v2/models/M/generate_stream`, answered by server-sent events."""

from collections.abc import Sequence

import msgspec

from gateway.core.errors import UpstreamFailed
from gateway.fleet.tensors import Inputs
from gateway.fleet.transports import NotServed
from gateway.fleet.transports.client import Client, Timeouts
from gateway.fleet.transports.client import Response as HttpResponse
from gateway.wire.sse import Decoder

MAX_ERROR_BYTES = 64 << 10

_encode = msgspec.json.Encoder().encode


class HttpGeneration:
    """See Generation."""

    __slots__ = ("_decoder", "_response")

    def __init__(self, response: HttpResponse) -> None:
        self._response = response
        self._decoder = Decoder()

    async def read(self) -> Sequence[bytes]:
        """See Generation."""
        while True:
            chunk = await self._response.read()
            if not chunk:
                return []
            if events := self._decoder.feed(chunk):
                return events

    def finish(self) -> None:
        """See Generation."""
        self._response.drain()

    def close(self) -> None:
        """See Generation."""
        self._response.close()


class HttpTransport:
    """One endpoint over HTTP."""

    def __init__(self, host: str, port: int, timeouts: Timeouts) -> None:
        self._client = Client(host, port, timeouts)

    async def generate(self, model: str, version: str, inputs: Inputs, traceparent: bytes | None) -> HttpGeneration:
        """See Transport."""
        at = f"/v2/models/{model}/versions/{version}" if version else f"/v2/models/{model}"
        extra = b"traceparent: %b\r\n" % traceparent if traceparent else b""
        response = await self._client.post(f"{at}/generate_stream", _encode(inputs.values), extra)
        if response.status != 200:
            raise await refusal(response)
        return HttpGeneration(response)

    async def close(self) -> None:
        """See Transport."""
        self._client.close()


async def refusal(response: HttpResponse) -> UpstreamFailed | NotServed:
    """Triton's own words stay here: they tell of its insides. Its status goes to the log."""
    size = 0
    while size < MAX_ERROR_BYTES and (chunk := await response.read()):
        size += len(chunk)
    response.close()
    detail = f"triton status {response.status}"
    if response.status in (404, 503):
        return NotServed("The model is not ready on its server.", detail=detail, retry_after_ms=1000)
    return UpstreamFailed("The model's server refused the request.", detail=detail)
