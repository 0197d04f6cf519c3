"""The endpoints that requests go through: which path is which, how each reads its body and writes its answer."""

from collections.abc import Mapping

from gateway.core.errors import InvalidRequest
from gateway.core.prompt import Prompt
from gateway.dataplane.embeddings import embeddings
from gateway.dataplane.kinds import EndpointKind, find_model
from gateway.dataplane.kserve import KSERVE_MODELS, model_and_verb
from gateway.dataplane.measure import measure
from gateway.dataplane.relay import relayed
from gateway.dataplane.tensors import generate_tensors, infer
from gateway.fleet.models import Served, ServedModel, ServedTensors
from gateway.wire.answers import ChatWriter, CompletionWriter, Writer
from gateway.wire.kserve_generate import Form, GenerateWriter, decode_generate, generate_prompt
from gateway.wire.openai import chat_prompt, completion_prompt, decode_chat, decode_completion


def find_kind(path: str, headers: list[tuple[bytes, bytes]], models: Mapping[str, Served]) -> EndpointKind | None:
    """The endpoint that a POST to `path` means; None where there is none."""
    kind = HOT.get(path)
    if kind is not None:
        return kind
    if path == "/v1/embeddings":
        return embeddings()
    if path.startswith(KSERVE_MODELS):
        model, verb = model_and_verb(path)
        if verb == "infer":
            return infer(model, headers)
        if verb in ("generate", "generate_stream"):
            stream = verb == "generate_stream"
            tensors = isinstance(models.get(model), ServedTensors)
            return generate_tensors(model, stream=stream) if tensors else _generate(model, stream=stream)
    return None


def _text_model(name: str, models: Mapping[str, Served]) -> ServedModel:
    """Raises ModelNotFound, InvalidRequest."""
    model = find_model(name, models)
    if isinstance(model, ServedModel):
        return model
    instead = "/v1/embeddings" if model.entry.embeddings else f"/v2/models/{name}/infer"
    raise InvalidRequest(f"The model '{name}' does not generate text; use {instead}.", param="model")


def _parse_chat(body: bytes, models: Mapping[str, Served]) -> tuple[Served, Prompt]:
    request = decode_chat(body)
    model = _text_model(request.model, models)
    return model, chat_prompt(request, model.abilities)


def _parse_completion(body: bytes, models: Mapping[str, Served]) -> tuple[Served, Prompt]:
    request = decode_completion(body)
    model = _text_model(request.model, models)
    return model, completion_prompt(request, model.abilities)


CHAT = EndpointKind("chat", "chat", _parse_chat, measure, relayed(ChatWriter))
COMPLETIONS = EndpointKind("completions", "completions", _parse_completion, measure, relayed(CompletionWriter))
HOT = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETIONS}


def _generate(model: str, *, stream: bool) -> EndpointKind:
    """KServe's generate on a text model: a completion in other words."""
    form = Form()

    def parse(body: bytes, models: Mapping[str, Served]) -> tuple[Served, Prompt]:
        nonlocal form
        served = _text_model(model, models)
        prompt, form = generate_prompt(decode_generate(body), model, served.abilities, stream=stream)
        return served, prompt

    def writer(_request: str, name: str, _created: int, _include_usage: bool) -> Writer:
        return GenerateWriter(name, form)

    return EndpointKind("generate", "tensors", parse, measure, relayed(writer))
