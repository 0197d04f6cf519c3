"""OpenAI's embeddings: JSON bytes -> Prompt, and the vectors back.

Schema: OpenAI API reference, "Create embeddings", as of November 2026.
"""

from base64 import b64encode
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from gateway.core.delta import Usage
from gateway.core.errors import InvalidRequest, UnsupportedParameter
from gateway.core.prompt import Prompt
from gateway.wire.reading import decode

MAX_TEXTS = 2048
"""Texts of one request."""

_encode = msgspec.json.Encoder().encode


class EmbeddingRequest(Struct, forbid_unknown_fields=True, kw_only=True):
    model: str
    input: str | Annotated[list[Any], Meta(min_length=1, max_length=MAX_TEXTS)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None


_decoder = msgspec.json.Decoder(EmbeddingRequest)


def decode_embedding(body: bytes) -> EmbeddingRequest:
    """The request in a body of `/v1/embeddings`. Raises InvalidRequest."""
    return decode(_decoder, body)


def embedding_prompt(request: EmbeddingRequest, dimensions: int) -> Prompt:
    """The neutral form, for a model whose embeddings have so many dimensions. Raises InvalidRequest."""
    if request.dimensions not in (None, dimensions):
        raise UnsupportedParameter(
            f"Unsupported parameter: 'dimensions': this model's embeddings have {dimensions}. Leave it out.",
            param="dimensions",
        )
    texts = (request.input,) if isinstance(request.input, str) else tuple(request.input)
    for index, text in enumerate(texts):
        where = "input" if isinstance(request.input, str) else f"input[{index}]"
        if not isinstance(text, str):
            if isinstance(text, int | list):
                raise UnsupportedParameter("Unsupported parameter: 'input' as token ids; send text.", param="input")
            raise InvalidRequest(f"Invalid value for '{where}': Expected str.", param=where)
        if not text:
            raise InvalidRequest(f"Invalid value for '{where}': a text may not be empty.", param=where)
    return Prompt(endpoint="embeddings", model=request.model, texts=texts, end_user=request.user)


def embedding_answer(model: str, rows: Sequence[bytes], usage: Usage, *, base64: bool) -> bytes:
    """The answer; each row is one embedding, its numbers in FP32, little-endian."""
    data = [
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, _row(row, base64))
        for index, row in enumerate(rows)
    ]
    return b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (
        b",".join(data), _encode(model), usage.prompt_tokens, usage.prompt_tokens,
    )  # fmt: skip


def _row(row: bytes, base64: bool) -> bytes:
    return b'"%b"' % b64encode(row) if base64 else _encode(memoryview(row).cast("f").tolist())
