"""The fleet file: which Triton endpoints there are, and which models they serve under which public names.

Read once at start; `${NAME}` and `${NAME:-default}` in it are taken from the environment. Its JSON Schema, for editors,
is triton_models/fleet.schema.json (`catflap fleet schema` prints it, a test holds the two equal).
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
import yaml
from msgspec import Meta

Ability = Literal["logprobs", "logit_bias"]
"""What a model can do beyond plain text. Tools, JSON mode, images and audio join with their adapters."""

Positive = Annotated[int, Meta(ge=1)]
Amount = Annotated[float, Meta(ge=0, le=10**6)]
TensorName = Annotated[str, Meta(min_length=1, max_length=200)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$", max_length=200)]


class FleetError(Exception):
    """The fleet file cannot be used; the message is a sentence for its author."""


class Endpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One Triton server."""

    name: Name
    http: str
    """Base URL of Triton's HTTP interface, `http://host:port`. Health is asked there, whatever the transport."""
    grpc: str | None = None
    """Address of Triton's gRPC interface, `host:port`."""
    metrics: str | None = None
    """URL of Triton's Prometheus metrics."""
    region: Name = "local"
    transport: Literal["http", "grpc"] = "http"
    """The road that generations take (docs/decisions/0007)."""
    pool: Name = "default"
    covert: bool = False
    """Takes only requests that a policy sends to its pool."""
    embedded: bool = False
    """Started on this machine by `catflap up`."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the HTTP interface."""
        parts = urlsplit(self.http)
        return parts.hostname or "", parts.port or 80

    @property
    def grpc_address(self) -> tuple[str, int] | None:
        """Host and port of the gRPC interface."""
        if self.grpc is None:
            return None
        parts = urlsplit(f"//{self.grpc}")
        return parts.hostname or "", parts.port or 0


class TritonModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What Triton calls the model; without a version Triton's version policy chooses."""

    name: Name
    version: Annotated[str, Meta(pattern=r"^\d*$")] = ""


class Cost(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a model's work costs, in cost units: any unit that an operator likes to bill in. Three decimals are kept."""

    prompt: Amount = 1.0
    """For 1,000 tokens of prompt."""
    cached: Amount | None = None
    """For 1,000 tokens of prompt that the backend found in its prefix cache, where it says so; default: as `prompt`."""
    output: Amount = 1.0
    """For 1,000 generated tokens."""
    request: Amount = 0.0
    """For each request."""
    kv_gib_second: Amount = 0.0
    """For a GiB of KV cache held for a second (`kv_bytes_per_token`); charged when a request settles."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every model has."""

    name: Name
    aliases: tuple[Name, ...] = ()
    owned_by: str = "catflap"
    hidden: bool = False
    """Not told by `/v1/models`: a decoy, or a honeypot that answers whoever knows its name."""
    triton: TritonModel
    endpoints: Annotated[tuple[Name, ...], Meta(min_length=1)]
    """Names of the endpoints that serve it."""
    cost: Cost = Cost()
    kv_bytes_per_token: Annotated[int, Meta(ge=0)] = 0
    """2 x layers x KV heads x head dimension x bytes of a number."""


class Model(_Entry, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model that generates text, under its public name."""

    adapter: Literal["vllm"] = "vllm"
    context_tokens: Positive
    """Prompt and completion together."""
    max_output_tokens: Positive
    tokenizer: str
    """`bytes` (one token a byte), or the path of a `tokenizer.json`, relative to the fleet file."""
    special_tokens: Annotated[int, Meta(ge=0)] = 0
    """Tokens the backend itself puts around the rendered prompt (a BOS, say)."""
    chat_template: str | None = None
    """Path of a Jinja2 chat template, relative to the fleet file; without one the model takes no chats."""
    abilities: tuple[Ability, ...] = ()
    cache_block_tokens: Positive = 16
    """Tokens of a block of the backend's prefix cache, whose hits it reports in whole blocks."""


class Charge(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a request to a tensor model counts as, in prompt tokens: `request` + `element` x its input elements, rounded
    up. A number is an element, and so is each byte of a string; where the model has a tokenizer, strings count as their
    tokens instead."""

    request: Amount = 0.0
    element: Amount = 1.0


class Embeddings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How texts become embeddings."""

    input: TensorName
    """BYTES, the texts in its first dimension, its other dimensions 1."""
    output: TensorName
    """FP32, one embedding for each text."""
    dimensions: Positive


class TensorModel(_Entry, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model of tensors, under its public name: for `/v2/models/NAME/infer` and, with `embeddings`, `/v1/embeddings`.
    What its tensors are is asked of Triton."""

    charge: Charge = Charge()
    inputs: tuple[TensorName, ...] = ()
    """The only inputs that clients may send; empty: all that the model has."""
    outputs: tuple[TensorName, ...] = ()
    """The only outputs that clients get; empty: all that the model has."""
    parameters: tuple[TensorName, ...] = ()
    """Request parameters (strings, numbers, booleans) that are passed on to the model; all others are refused."""
    tokenizer: str | None = None
    """`bytes`, or the path of a `tokenizer.json` relative to the fleet file: strings are charged by their tokens."""
    context_tokens: Positive | None = None
    """The most tokens of one string; needs `tokenizer`."""
    embeddings: Embeddings | None = None


class Fleet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole fleet file."""

    api_version: Literal["catflap/v1"] = msgspec.field(name="apiVersion")
    kind: Literal["Fleet"]
    endpoints: Annotated[tuple[Endpoint, ...], Meta(min_length=1)]
    models: tuple[Model, ...] = ()
    tensor_models: tuple[TensorModel, ...] = ()
    folder: str = ""
    """Filled in when the file is read: the folder that its paths are relative to."""

    @property
    def served(self) -> tuple["Model | TensorModel", ...]:
        """All models, those of text first."""
        return (*self.models, *self.tensor_models)

    def path(self, relative: str) -> Path:
        """The file that a path in the fleet file names."""
        return Path(self.folder) / relative


def read_fleet(path: Path, environment: Mapping[str, str] = os.environ) -> Fleet:
    """The checked fleet of the file `path`. Raises FleetError with a sentence that names the file and the place."""
    try:
        text = path.read_text()
    except OSError as problem:
        raise FleetError(f"The fleet file {path} cannot be read: {problem.strerror}. Set CATFLAP_FLEET.") from problem
    except UnicodeDecodeError as problem:
        raise FleetError(f"The fleet file {path} is not text in UTF-8.") from problem
    return parse_fleet(text, str(path), str(path.parent), environment)


def parse_fleet(text: str, name: str, folder: str, environment: Mapping[str, str]) -> Fleet:
    """`read_fleet` on text that is already there."""
    try:
        document = yaml.safe_load(_substitute(text, name, environment))
        fleet = msgspec.convert(document, Fleet)
    except yaml.YAMLError as problem:
        raise FleetError(f"{name} is not valid YAML: {' '.join(str(problem).split())}") from problem
    except msgspec.ValidationError as problem:
        raise FleetError(f"{name}: {problem}") from problem
    _check(fleet, name)
    return msgspec.structs.replace(fleet, folder=folder)


def fleet_schema() -> dict[str, object]:
    """The JSON Schema of a fleet file."""
    schema = msgspec.json.schema(Fleet)
    del schema["$defs"]["Fleet"]["properties"]["folder"]
    return schema


_VARIABLE = re.compile(r"\$\{([A-Z_][A-Z0-9_]*)(?::-([^}]*))?\}")


def _substitute(text: str, name: str, environment: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        variable, default = match.groups()
        found = environment.get(variable, default)
        if found is None:
            raise FleetError(f"{name} uses ${{{variable}}}, which is not set and has no default.")
        return found

    return _VARIABLE.sub(value, text)


def _check(fleet: Fleet, name: str) -> None:
    """What a schema cannot say: names are unique and known, addresses are whole."""
    endpoints = [endpoint.name for endpoint in fleet.endpoints]
    if not fleet.served:
        raise FleetError(f"{name}: there are no models: list some under models or tensor_models.")
    models = [known for model in fleet.served for known in (model.name, *model.aliases)]
    for kind, names in (("endpoint", endpoints), ("model or alias", models)):
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise FleetError(f"{name}: the {kind} name {twice[0]!r} is used twice.")
    for endpoint in fleet.endpoints:
        _check_address(endpoint, name)
    for model in fleet.served:
        if model.cost.cached is not None and model.cost.cached > model.cost.prompt:
            raise FleetError(f"{name}: model {model.name!r}: cost.cached is above cost.prompt.")
        if missing := sorted(set(model.endpoints) - set(endpoints)):
            raise FleetError(f"{name}: model {model.name!r} names the endpoint {missing[0]!r}, which is not there.")
        if set(model.endpoints) <= {endpoint.name for endpoint in fleet.endpoints if endpoint.covert}:
            raise FleetError(f"{name}: model {model.name!r} has only covert endpoints: ordinary requests need another.")
    for tensors in fleet.tensor_models:
        _check_tensors(tensors, f"{name}: model {tensors.name!r}")


_NEVER_PASSED_ON = ("binary_data", "classification", "sequence_", "shared_memory", "triton_")
"""Beginnings of Triton's own parameters that are no client's to set: memory of the server, other clients' sequences."""


def _check_tensors(model: TensorModel, where: str) -> None:
    if barred := [name for name in model.parameters if name.startswith(_NEVER_PASSED_ON) or name == "headers"]:
        raise FleetError(f"{where}: parameters names {barred[0]!r}, which clients may never set; take it out.")
    if model.context_tokens is not None and model.tokenizer is None:
        raise FleetError(f"{where}: context_tokens needs a tokenizer that counts them.")
    if model.embeddings is None:
        return
    if model.tokenizer is None:
        raise FleetError(f"{where}: embeddings need a tokenizer, by whose tokens texts are charged.")
    for kind, tensor, allowed in (
        ("input", model.embeddings.input, model.inputs),
        ("output", model.embeddings.output, model.outputs),
    ):
        if allowed and tensor not in allowed:
            raise FleetError(f"{where}: embeddings use the {kind} {tensor!r}, which {kind}s does not list.")


def _check_address(endpoint: Endpoint, name: str) -> None:
    where = f"{name}: endpoint {endpoint.name!r}"
    if not _whole(endpoint.http, "http", ("", "/")):
        raise FleetError(f"{where}: http must read http://HOST:PORT, not {endpoint.http!r}.")
    if endpoint.grpc is not None and not _whole(f"//{endpoint.grpc}", "", ("",)):
        raise FleetError(f"{where}: grpc must read HOST:PORT, not {endpoint.grpc!r}.")
    if endpoint.transport == "grpc" and endpoint.grpc is None:
        raise FleetError(f"{where}: its transport is grpc, but it has no grpc address (HOST:PORT).")


def _whole(url: str, scheme: str, paths: tuple[str, ...]) -> bool:
    """Whether an address names host and port, and nothing that we would pass over."""
    try:
        parts = urlsplit(url)
        extra = parts.username or parts.query or parts.fragment
        return parts.scheme == scheme and bool(parts.hostname and parts.port) and parts.path in paths and not extra
    except ValueError:
        return False
