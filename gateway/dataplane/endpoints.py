"""The generating endpoints: how each reads its body and writes its answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.core.errors import ModelNotFound
from gateway.core.prompt import Endpoint, Prompt
from gateway.fleet.models import ServedModel
from gateway.wire.answers import ChatWriter, CompletionWriter, Writer
from gateway.wire.openai import chat_prompt, completion_prompt, decode_chat, decode_completion


@dataclass(frozen=True)
class EndpointKind:
    """One endpoint."""

    name: Endpoint
    parse: Callable[[bytes, Mapping[str, ServedModel]], tuple[ServedModel, Prompt]]
    """Body and models by name -> the model asked for and the neutral prompt. Raises InvalidRequest, ModelNotFound."""
    writer: Callable[[str, str, int, bool], Writer]
    """(request id, model name, seconds since the epoch, include usage) -> a writer."""


def find_model(name: str, models: Mapping[str, ServedModel]) -> ServedModel:
    """The model of this public name. Raises ModelNotFound."""
    model = models.get(name)
    if model is None:
        raise unknown_model(name)
    return model


def unknown_model(name: str) -> ModelNotFound:
    """The one answer for a model that is not there and for one that is not for the caller: who may not use a model need
    not learn that it exists."""
    return ModelNotFound(
        f"The model '{name[:100]}' does not exist or you do not have access to it. GET /v1/models lists those you may "
        "use.",
        param="model",
    )


def _parse_chat(body: bytes, models: Mapping[str, ServedModel]) -> tuple[ServedModel, Prompt]:
    request = decode_chat(body)
    model = find_model(request.model, models)
    return model, chat_prompt(request, model.abilities)


def _parse_completion(body: bytes, models: Mapping[str, ServedModel]) -> tuple[ServedModel, Prompt]:
    request = decode_completion(body)
    model = find_model(request.model, models)
    return model, completion_prompt(request, model.abilities)


CHAT = EndpointKind("chat", _parse_chat, ChatWriter)
COMPLETIONS = EndpointKind("completions", _parse_completion, CompletionWriter)
