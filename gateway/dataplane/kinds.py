"""What makes one endpoint different from another on the one request path."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.core.errors import ModelNotFound
from gateway.core.prompt import Endpoint, Prompt
from gateway.dataplane.call import Call
from gateway.dataplane.measure import Measured
from gateway.dataplane.services import Services
from gateway.fleet.models import Served

Scope = Literal["chat", "completions", "embeddings", "tensors"]
"""What a key may be bound to."""


@dataclass(frozen=True)
class EndpointKind:
    """One endpoint, or one request to it where the answer's form is the request's choice."""

    name: Endpoint
    scope: Scope
    parse: Callable[[bytes, Mapping[str, Served]], tuple[Served, Prompt]]
    """Body and models by name -> the model asked for and the neutral prompt. Raises InvalidRequest, ModelNotFound."""
    measure: Callable[..., Awaitable[Measured]]
    """What `gateway.dataplane.measure.measure` takes and gives."""
    answer: Callable[[Services, Call, Callable[[], Awaitable[None]]], Awaitable[None]]
    """From an admitted call to its answer; calls the function before the last bytes are handed to the client."""


def find_model(name: str, models: Mapping[str, Served]) -> Served:
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
