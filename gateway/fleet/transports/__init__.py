"""Transports: how a generation reaches Triton. `Transport` is what each of them offers."""

from collections.abc import Sequence
from typing import Protocol

from gateway.core.errors import Unavailable
from gateway.fleet.tensors import Inputs, Response


class NotServed(Unavailable):
    """The endpoint answers, and says that it does not serve this model now."""


class Generation(Protocol):
    """The responses of one generation, as they come."""

    async def read(self) -> Sequence[Response]:
        """The next responses at least one; empty when there are no more.

        Raises UpstreamFailed, UpstreamTimeout or Unavailable.
        """

    def finish(self) -> None:
        """The last response that matters has been read; the end of the stream may still be on its way."""

    def close(self) -> None:
        """Done with it: what has not been generated yet will not be. Never raises; may be called twice."""


class Transport(Protocol):
    """One endpoint's road."""

    async def generate(self, model: str, version: str, inputs: Inputs, traceparent: bytes | None) -> Generation:
        """Start a generation. Raises Unavailable when the endpoint cannot be reached."""

    async def close(self) -> None:
        """Hang up all connections."""
