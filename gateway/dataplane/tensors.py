"""KServe's infer, and generate_stream on decoupled models: tensors are checked against what the model says of itself,
charged as the fleet file says, and only then sent."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from gateway.core.delta import Usage
from gateway.core.errors import (
    ApiError,
    ContextLengthExceeded,
    InvalidRequest,
    UnsupportedParameter,
    UpstreamFailed,
)
from gateway.core.prompt import Prompt
from gateway.core.tensor import Tensor, pack_strings, unpack_strings
from gateway.dataplane.call import Call
from gateway.dataplane.kinds import EndpointKind, find_model
from gateway.dataplane.limits import limit_headers
from gateway.dataplane.measure import Measured, never_fits, too_large
from gateway.dataplane.services import Services
from gateway.fleet.adapters.tensors import Asked
from gateway.fleet.models import Served, ServedTensors
from gateway.fleet.signature import Signature
from gateway.fleet.tokens import Aside, count_each
from gateway.limits.plans import Limit
from gateway.wire.embeddings import MAX_TEXTS
from gateway.wire.kserve_infer import MAX_JSON_BYTES, InferRequest, decode_infer, encode_infer, pack_numbers
from gateway.wire.sse import frame

Settle = Callable[[], Awaitable[None]]
BINARY = (b"content-type", b"application/octet-stream")


def infer(name: str, headers: Sequence[tuple[bytes, bytes]]) -> EndpointKind:
    """`POST /v2/models/NAME/infer` with these headers."""
    request: InferRequest

    def parse(body: bytes, models: Mapping[str, Served]) -> tuple[Served, Prompt]:
        nonlocal request
        model = tensor_model(name, models, "infer")
        found = dict(headers)
        if found.get(b"content-encoding", b"identity") != b"identity":
            raise InvalidRequest("Compressed bodies are not taken: send it without Content-Encoding.")
        request = decode_infer(body, found.get(b"inference-header-content-length"))
        signature = model.signature()
        if signature.decoupled:
            raise InvalidRequest(f"The model '{name}' answers in a stream: use generate_stream.", param="model")
        check_inputs(request.tensors, signature)
        _check_outputs(request.outputs or (), signature)
        _check_parameters(request.parameters, model)
        return model, tensor_prompt("infer", name, request.tensors, model)

    async def answer(services: Services, call: Call, settle: Settle) -> None:
        assert isinstance(call.model, ServedTensors) and call.prompt is not None and call.reservation is not None
        wanted = tuple(request.outputs or call.model.signature().outputs)
        call.routes = [[]]
        asked = Asked(call.prompt.tensors, wanted, request.parameters)
        outputs = await computed(call, lambda: ask(services, call, asked, call.routes[0]))
        body, header_length = encode_infer(name, request, outputs)
        await settle()
        told = limit_headers(call.reservation.states)
        if header_length is None:
            await call.exchange.answer(body, told)
        else:
            length = (b"inference-header-content-length", b"%d" % header_length)
            await call.exchange.answer(body, [length, *told], BINARY)

    return EndpointKind("infer", "tensors", parse, measure_tensors, answer)


def generate_tensors(name: str, *, stream: bool) -> EndpointKind:
    """`POST /v2/models/NAME/generate_stream`, and `generate`, on a tensor model."""
    fields: dict[str, Any] = {}

    def parse(body: bytes, models: Mapping[str, Served]) -> tuple[Served, Prompt]:
        nonlocal fields
        model = tensor_model(name, models, "generate")
        signature = model.signature()
        if not stream or not signature.decoupled:
            instead = "generate_stream" if signature.decoupled else "infer"
            raise InvalidRequest(f"The model '{name}' takes tensors: use {instead}.", param="model")
        fields, tensors = _from_fields(body, signature)
        check_inputs(tensors, signature)
        return model, msgspec.structs.replace(tensor_prompt("generate", name, tensors, model), stream=True)

    async def answer(services: Services, call: Call, settle: Settle) -> None:
        assert isinstance(call.model, ServedTensors)
        await _stream(services, call, msgspec.json.encode(fields), settle)

    return EndpointKind("generate", "tensors", parse, measure_tensors, answer)


def tensor_model(name: str, models: Mapping[str, Served], verb: str) -> ServedTensors:
    """Raises ModelNotFound, InvalidRequest. A text model has no way in here: its limits count what it generates."""
    model = find_model(name, models)
    if isinstance(model, ServedTensors):
        return model
    raise InvalidRequest(
        f"The model '{name}' generates text, which {verb} does not: use /v1/completions or /v2/models/{name}/generate.",
        param="model",
    )


def tensor_prompt(endpoint: Any, name: str, tensors: tuple[Tensor, ...], model: ServedTensors) -> Prompt:
    """The neutral form. Where the model has a tokenizer, its strings are texts, as those of any other endpoint."""
    texts: list[str] = []
    if model.counter is not None:
        for tensor in tensors:
            if tensor.datatype == "BYTES":
                texts += _texts(tensor)
    return Prompt(endpoint=endpoint, model=name, tensors=tensors, texts=tuple(texts))


def _texts(tensor: Tensor) -> list[str]:
    if tensor.elements > MAX_TEXTS:
        raise InvalidRequest(f"'{tensor.name}' has {tensor.elements} texts; at most {MAX_TEXTS} are taken.")
    try:
        return [string.decode() for string in unpack_strings(tensor.data, tensor.elements)]
    except UnicodeDecodeError as problem:
        raise InvalidRequest(f"'{tensor.name}' has a text that is not valid UTF-8.", param=tensor.name) from problem


def check_inputs(tensors: Sequence[Tensor], signature: Signature) -> None:
    """Raises InvalidRequest where tensors are not those that the model takes."""
    given = {tensor.name for tensor in tensors}
    if missing := sorted(set(signature.inputs) - signature.optional - given):
        raise InvalidRequest(f"Missing input '{missing[0]}'.", param=missing[0])
    for tensor in tensors:
        name, spec = tensor.name, signature.inputs.get(tensor.name)
        if spec is None:
            raise InvalidRequest(f"The model has no input '{name}'.", param=name)
        if tensor.datatype != spec.datatype:
            raise InvalidRequest(f"The input '{name}' is of type {spec.datatype}, not {tensor.datatype}.", param=name)
        if not spec.admits(tensor.shape):
            raise InvalidRequest(
                f"The input '{name}' has the shape {list(spec.shape)} (-1 is any size), not {list(tensor.shape)}.",
                param=name,
            )
        if signature.max_batch and tensor.shape[0] > signature.max_batch:
            raise InvalidRequest(
                f"The input '{name}' has {tensor.shape[0]} rows; at most {signature.max_batch} are taken at once.",
                param=name,
            )
    if signature.max_batch and len({tensor.shape[0] for tensor in tensors}) > 1:
        raise InvalidRequest("All inputs must have the same number of rows.")


def _check_outputs(names: Sequence[str] | Mapping[str, bool], signature: Signature) -> None:
    for name in names:
        if name not in signature.outputs:
            raise InvalidRequest(f"The model has no output '{name}'.", param=name)


def _check_parameters(parameters: Mapping[str, object], model: ServedTensors) -> None:
    for name in parameters:
        if name not in model.entry.parameters:
            raise UnsupportedParameter(
                f"Unsupported parameter: 'parameters.{name[:200]}' is not known here.", param=f"parameters.{name[:200]}"
            )


async def measure_tensors(
    prompt: Prompt, texts: tuple[str, ...], model: ServedTensors, _default: int, limits: tuple[Limit, ...], aside: Aside
) -> Measured:
    """What is reserved is what will be charged. Raises ContextLengthExceeded, TooLargeForPlan, and what `aside`
    raises."""
    context, counter = model.entry.context_tokens, model.counter
    longest = max((counter.floor(text) for text in texts), default=0) if counter is not None else 0
    counts = []
    if counter is not None and (context is None or longest <= context):
        counts = await count_each(counter, texts, aside)
        longest = max(counts, default=0)
    if context is not None and longest > context:
        raise ContextLengthExceeded(
            f"This model reads at most {context} tokens of a text; one of yours has at least {longest}.", param="input"
        )
    ceiling = Usage(model.charge(prompt.tensors, sum(counts)), 0)
    if (passed := never_fits(limits, ceiling)) is not None:
        raise too_large(passed, ceiling, "Send less at once.")
    return Measured(0, ceiling, exact=True)


async def computed(call: Call, work: Callable[[], Any]) -> Any:
    """The result of work on the GPU. It is charged as soon as it is there, and also when the client leaves before that:
    Triton computes what it was sent to the end. What failed is not charged."""
    try:
        result = await work()
    except asyncio.CancelledError:
        call.usage.prompt_tokens = call.tokens
        raise
    call.usage.prompt_tokens = call.tokens
    call.first_token_ms = call.exchange.elapsed_ms()
    return result


async def ask(services: Services, call: Call, asked: Asked, tried: list[str]) -> tuple[Tensor, ...]:
    """The wanted outputs, in their order. Raises what Router.infer raises."""
    assert isinstance(call.model, ServedTensors)
    found = await services.router.infer(call.model, asked, call.exchange.header(b"traceparent"), tried)
    outputs = {tensor.name: tensor for tensor in found}
    if missing := [name for name in asked.outputs if name not in outputs]:
        raise UpstreamFailed("The model's server left an output out.", detail=f"{len(missing)} outputs missing")
    return tuple(outputs[name] for name in asked.outputs)


# -- decoupled models


def _from_fields(body: bytes, signature: Signature) -> tuple[dict[str, Any], tuple[Tensor, ...]]:
    """The inputs in a body of the generate extension: values, or flat lists of values, by their tensors' names."""
    if len(body) > MAX_JSON_BYTES:
        raise InvalidRequest(
            f"The JSON of this request has {len(body)} bytes; at most {MAX_JSON_BYTES} are taken. Send less at once."
        )
    try:
        given = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise InvalidRequest("The body is not a JSON object (or is nested too deeply).") from problem
    given.pop("id", None)
    tensors = []
    for name, value in given.items():
        spec = signature.inputs.get(name)
        if spec is None:
            name = name[:200]
            raise UnsupportedParameter(f"Unsupported parameter: '{name}' is not known here.", param=name)
        elements = value if isinstance(value, list) else [value]
        if not elements:
            raise InvalidRequest(f"The input '{name}' is empty.", param=name)
        if spec.datatype == "BYTES":
            if not all(type(element) is str for element in elements):
                raise InvalidRequest(f"The input '{name}' must be text.", param=name)
            data = pack_strings([element.encode() for element in elements])
        else:
            data = pack_numbers(spec.datatype, elements, name)
        tensors.append(Tensor(name, spec.datatype, (len(elements),), data))
    return given, tuple(tensors)


async def _stream(services: Services, call: Call, body: bytes, settle: Settle) -> None:
    assert isinstance(call.model, ServedTensors) and call.prompt is not None and call.reservation is not None
    call.routes = [[]]
    model, exchange, trace = call.model, call.exchange, call.exchange.header(b"traceparent")
    stream = await computed(call, lambda: services.router.stream(model, body, trace, call.routes[0]))
    try:
        await exchange.begin_stream(limit_headers(call.reservation.states))
        outputs = model.signature().outputs
        while responses := await stream.read():
            await exchange.write(b"".join([_frame(call.prompt.model, outputs, one) for one in responses]))
        await settle()
        await exchange.end_stream(b"")
    finally:
        stream.close()


def _frame(model: str, outputs: Mapping[str, object], response: bytes) -> bytes:
    """One response's wanted outputs under the model's public name. Raises UpstreamFailed."""
    try:
        told = msgspec.json.decode(response, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise _broken("not JSON") from problem
    if "error" in told and "error" not in outputs:
        raise _broken("error event in the stream")
    return frame(msgspec.json.encode({"model_name": model, **{name: told[name] for name in outputs if name in told}}))


def _broken(detail: str) -> ApiError:
    return UpstreamFailed("The model's server failed while it answered.", detail=detail)
