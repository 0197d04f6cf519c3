"""`/v1/embeddings`: texts to one BYTES tensor, one FP32 tensor back to vectors."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial

from gateway.core.errors import InvalidRequest, UpstreamFailed
from gateway.core.prompt import Prompt
from gateway.core.tensor import Tensor, pack_strings
from gateway.dataplane.call import Call
from gateway.dataplane.kinds import EndpointKind, find_model
from gateway.dataplane.limits import limit_headers
from gateway.dataplane.services import Services
from gateway.dataplane.tensors import ask, computed, measure_tensors
from gateway.fleet.adapters.tensors import Asked
from gateway.fleet.file import Embeddings
from gateway.fleet.models import Served, ServedTensors
from gateway.fleet.signature import Signature
from gateway.wire.embeddings import decode_embedding, embedding_answer, embedding_prompt

FLOAT_BYTES = 4
LONG_BYTES = 256 << 10
"""Vectors past which they are written off the event loop (spelling out 64,000 numbers takes some 5 ms)."""


def embeddings() -> EndpointKind:
    """One request to it."""
    base64 = False

    def parse(body: bytes, models: Mapping[str, Served]) -> tuple[Served, Prompt]:
        nonlocal base64
        request = decode_embedding(body)
        model = find_model(request.model, models)
        if not isinstance(model, ServedTensors) or model.entry.embeddings is None:
            raise InvalidRequest(f"The model '{request.model}' does not make embeddings.", param="model")
        base64 = request.encoding_format == "base64"
        return model, embedding_prompt(request, model.entry.embeddings.dimensions)

    async def answer(services: Services, call: Call, settle: Callable[[], Awaitable[None]]) -> None:
        assert call.prompt is not None and call.reservation is not None
        rows: list[bytes] = await computed(call, lambda: _rows(services, call))
        write = partial(embedding_answer, call.prompt.model, rows, call.usage, base64=base64)
        body = await asyncio.to_thread(write) if sum(map(len, rows)) > LONG_BYTES else write()
        await settle()
        await call.exchange.answer(body, limit_headers(call.reservation.states))

    return EndpointKind("embeddings", "embeddings", parse, measure_tensors, answer)


async def _rows(services: Services, call: Call) -> list[bytes]:
    """The embedding of each text, in batches as large as the model takes."""
    assert isinstance(call.model, ServedTensors) and call.model.entry.embeddings is not None
    declared, signature, rows = call.model.entry.embeddings, call.model.signature(), []
    batches = list(_batches(call.texts, declared, signature))
    call.routes = [[] for _ in batches]
    for tensor, route in zip(batches, call.routes, strict=True):
        (output,) = await ask(services, call, Asked((tensor,), (declared.output,), {}), route)
        width = declared.dimensions * FLOAT_BYTES
        if output.datatype != "FP32" or len(output.data) != tensor.elements * width:
            raise UpstreamFailed("The model's server sent an answer that cannot be read.", detail="embeddings' shape")
        rows += [output.data[at : at + width] for at in range(0, len(output.data), width)]
    return rows


def _batches(texts: tuple[str, ...], declared: Embeddings, signature: Signature) -> Iterator[Tensor]:
    size = signature.max_batch or len(texts)
    dimensions = len(signature.inputs[declared.input].shape)
    for at in range(0, len(texts), size):
        batch = [text.encode() for text in texts[at : at + size]]
        yield Tensor(declared.input, "BYTES", (len(batch), *(1,) * (dimensions - 1)), pack_strings(batch))
