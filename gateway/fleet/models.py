"""Models ready to serve: a fleet entry with its template, its token counter and its endpoints."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from gateway.core.errors import InvalidRequest, Unavailable
from gateway.core.prompt import Message, Prompt
from gateway.core.tensor import LENGTH, Tensor
from gateway.fleet.file import Endpoint, Fleet, Model, TensorModel
from gateway.fleet.health import Health
from gateway.fleet.signature import Signature
from gateway.fleet.template import Renderer, read_template
from gateway.fleet.tokens import Aside, TokenCounter, count_each, read_counter
from gateway.limits.weights import SCALE, Price, Weights, thousandths

PROBE = "Answer as a system would."
MANY = 1024


@dataclass(frozen=True, eq=False)
class ServedModel:
    """One model that generates text. Equal to itself alone."""

    entry: Model
    abilities: frozenset[str]
    counter: TokenCounter
    renderer: Renderer | None
    endpoints: tuple[Endpoint, ...]
    """Those that take ordinary requests."""
    price: Price = field(default_factory=Price)
    pools: Mapping[str, tuple[Endpoint, ...]] = field(default_factory=dict)
    """All of its endpoints, by the name of their pool."""
    system_role: bool = True
    """Whether its chat template takes system messages."""

    @lru_cache(MANY)  # noqa: B019 - models live as long as the process
    def of_pool(self, pool: str) -> "ServedModel | None":
        """The same model on the endpoints of one pool; None where it has none there."""
        endpoints = self.pools.get(pool)
        return None if endpoints is None else replace(self, endpoints=endpoints)

    def render(self, prompt: Prompt) -> tuple[str, ...]:
        """The texts that the model reads: one for a chat, one for each prompt of a completion."""
        if prompt.endpoint != "chat":
            return prompt.texts
        if self.renderer is None:
            raise InvalidRequest(f"The model '{self.entry.name}' takes no chats; use /v1/completions.", param="model")
        return (self.renderer(prompt.messages),)

    def bound(self, text: str) -> int:
        """At most so many tokens is the text, with what the backend adds."""
        return self.counter.bound(text) + self.entry.special_tokens

    def floor(self, text: str) -> int:
        """At least so many tokens is the text."""
        return self.counter.floor(text) + self.entry.special_tokens

    def fits(self, texts: Sequence[str], max_tokens: int) -> bool:
        """Whether each text and so many tokens of output certainly fit the context; False where counting may help."""
        return max(map(self.bound, texts)) + max_tokens <= self.entry.context_tokens

    async def count_each(self, texts: Sequence[str], aside: Aside) -> list[int]:
        """Exactly so many tokens is each text, with what the backend adds; long ones are counted `aside`."""
        return [count + self.entry.special_tokens for count in await count_each(self.counter, texts, aside)]


@dataclass(frozen=True)
class ServedTensors:
    """One model of tensors."""

    entry: TensorModel
    counter: TokenCounter | None
    endpoints: tuple[Endpoint, ...]
    health: Health
    price: Price = field(default_factory=Price)

    def render(self, prompt: Prompt) -> tuple[str, ...]:
        """The texts whose tokens are charged: those of an embeddings request, or the strings among the tensors."""
        return prompt.texts

    def signature(self) -> Signature:
        """What its tensors are. Raises Unavailable as long as no endpoint has told."""
        signature = self.health.signature(self.entry.name)
        if signature is None:
            raise Unavailable(
                f"The model '{self.entry.name}' is not being served right now. Try again shortly.",
                detail="no signature",
                retry_after_ms=2000,
            )
        return signature

    def charge(self, tensors: Sequence[Tensor], text_tokens: int) -> int:
        """What a request counts as, in prompt tokens."""
        strings_count = self.counter is None
        elements = sum(_elements(tensor, strings_count) for tensor in tensors)
        return math.ceil(self.entry.charge.request + self.entry.charge.element * elements) + text_tokens


Served = ServedModel | ServedTensors


def region_of(model: Served, endpoint: str | None) -> str | None:
    """Where the endpoint of this name stands."""
    if endpoint is not None:
        for one in model.endpoints:
            if one.name == endpoint:
                return one.region
    return None


def price_of(entry: Model | TensorModel) -> Price:
    """The entry's cost in the integers that everything is charged by. A token's thousandths of a cost unit are the
    file's cost units for 1,000 tokens."""
    cost = entry.cost
    cached = cost.prompt if cost.cached is None else cost.cached
    weights = Weights(
        thousandths(cost.prompt), thousandths(cached), thousandths(cost.output), thousandths(cost.request) * SCALE
    )
    return Price(weights, thousandths(cost.kv_gib_second), entry.kv_bytes_per_token or 0)


def _elements(tensor: Tensor, strings_count: bool) -> int:
    """Numbers; of strings their bytes, an empty one as one, if they count at all here."""
    if tensor.datatype != "BYTES":
        return tensor.elements
    return max(tensor.elements, len(tensor.data) - LENGTH.size * tensor.elements) if strings_count else 0


def _ordinary(endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    return tuple(endpoint for endpoint in endpoints if not endpoint.covert)


def by_pool(endpoints: Sequence[Endpoint]) -> dict[str, tuple[Endpoint, ...]]:
    """The endpoints of each pool."""
    pools: dict[str, tuple[Endpoint, ...]] = {}
    for endpoint in endpoints:
        pools[endpoint.pool] = (*pools.get(endpoint.pool, ()), endpoint)
    return pools


def takes_system(renderer: Renderer) -> bool:
    """Whether a chat template puts system messages where the model reads them: some refuse or drop them."""
    try:
        return PROBE in renderer((Message("system", PROBE), Message("user", "?")))
    except InvalidRequest:
        return False


def load_models(fleet: Fleet) -> dict[str, ServedModel]:
    """Every text model by each of its names. Raises FleetError when a template or tokenizer cannot be used."""
    endpoints = {endpoint.name: endpoint for endpoint in fleet.endpoints}
    served: dict[str, ServedModel] = {}
    for entry in fleet.models:
        renderer = read_template(fleet.path(entry.chat_template)) if entry.chat_template else None
        places = tuple(endpoints[name] for name in entry.endpoints)
        model = ServedModel(
            entry,
            frozenset(entry.abilities),
            read_counter(entry.tokenizer, fleet.path(entry.tokenizer)),
            renderer,
            _ordinary(places),
            price_of(entry),
            by_pool(places),
            renderer is None or takes_system(renderer),
        )
        for name in (entry.name, *entry.aliases):
            served[name] = model
    return served


def load_tensor_models(fleet: Fleet, health: Health) -> dict[str, ServedTensors]:
    """Every tensor model by each of its names. Raises FleetError when a tokenizer cannot be used."""
    endpoints = {endpoint.name: endpoint for endpoint in fleet.endpoints}
    served: dict[str, ServedTensors] = {}
    for entry in fleet.tensor_models:
        counter = read_counter(entry.tokenizer, fleet.path(entry.tokenizer)) if entry.tokenizer else None
        places = _ordinary(tuple(endpoints[name] for name in entry.endpoints))
        model = ServedTensors(entry, counter, places, health, price_of(entry))
        for name in (entry.name, *entry.aliases):
            served[name] = model
    return served


def text_models(models: Mapping[str, Served]) -> tuple[str, ...]:
    """The names of those that generate text, each model's once."""
    return tuple(sorted({model.entry.name for model in models.values() if isinstance(model, ServedModel)}))
