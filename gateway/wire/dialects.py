"""How each protocol tells an error, and how it ends a stream."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from gateway.core.errors import ApiError
from gateway.wire.sse import DONE

_encode = msgspec.json.Encoder().encode


class Dialect(NamedTuple):
    """One protocol's way."""

    error: Callable[[ApiError], bytes]
    """The JSON that tells an error."""
    done: bytes
    """The frame behind the last one of a stream."""


def _kserve_error(error: ApiError) -> bytes:
    """KServe's `error` is the sentence itself; what programs need stands beside it."""
    return _encode({"error": error.message, "type": error.type, "param": error.param, "code": error.code})


OPENAI = Dialect(lambda error: _encode(error.body()), DONE)
KSERVE = Dialect(_kserve_error, b"")


def dialect_of(path: str) -> Dialect:
    """The protocol that is spoken at a path."""
    return KSERVE if path == "/v2" or path.startswith("/v2/") else OPENAI
