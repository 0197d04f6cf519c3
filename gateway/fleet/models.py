"""Models ready to serve: a fleet entry with its template, its token counter and its endpoints."""

from dataclasses import dataclass, field

from gateway.core.errors import InvalidRequest
from gateway.core.prompt import Prompt
from gateway.fleet.file import Endpoint, Fleet, Model
from gateway.fleet.template import Renderer, read_template
from gateway.fleet.tokens import TokenCounter, read_counter
from gateway.limits.weights import SCALE, Price, Weights, thousandths


@dataclass(frozen=True)
class ServedModel:
    """One model under its public name."""

    entry: Model
    abilities: frozenset[str]
    counter: TokenCounter
    renderer: Renderer | None
    endpoints: tuple[Endpoint, ...]
    price: Price = field(default_factory=Price)

    def region(self, endpoint: str | None) -> str | None:
        """Where the endpoint of this name stands."""
        return next((one.region for one in self.endpoints if one.name == endpoint), None)

    def render(self, prompt: Prompt) -> tuple[str, ...]:
        """The texts that the model reads: one for a chat, one for each prompt of a completion."""
        if prompt.endpoint == "completions":
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

    async def count(self, text: str) -> int:
        """Exactly so many tokens is the text, with what the backend adds."""
        return await self.counter.count(text) + self.entry.special_tokens


def price_of(entry: Model) -> Price:
    """The entry's cost in the integers that everything is charged by. A token's thousandths of a cost unit are the
    file's cost units for 1,000 tokens."""
    cost = entry.cost
    cached = cost.prompt if cost.cached is None else cost.cached
    weights = Weights(
        thousandths(cost.prompt), thousandths(cached), thousandths(cost.output), thousandths(cost.request) * SCALE
    )
    return Price(weights, thousandths(cost.kv_gib_second), entry.kv_bytes_per_token)


def load_models(fleet: Fleet) -> dict[str, ServedModel]:
    """Every model of the fleet by each of its names. Raises FleetError when a template or tokenizer cannot be used."""
    endpoints = {endpoint.name: endpoint for endpoint in fleet.endpoints}
    served: dict[str, ServedModel] = {}
    for entry in fleet.models:
        model = ServedModel(
            entry,
            frozenset(entry.abilities),
            read_counter(entry.tokenizer, fleet.path(entry.tokenizer)),
            read_template(fleet.path(entry.chat_template)) if entry.chat_template else None,
            tuple(endpoints[name] for name in entry.endpoints),
            price_of(entry),
        )
        for name in (entry.name, *entry.aliases):
            served[name] = model
    return served
