"""What a reservation keeps in Redis beside its buckets, so that another process can settle it."""

import msgspec

from gateway.core.delta import Usage
from gateway.core.event import RequestEvent
from gateway.limits.plans import Measure
from gateway.limits.weights import Weights


class Bound(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A limit as it was reserved: its key in Redis and how it counts."""

    key: str
    measure: Measure
    weights: Weights

    def charge(self, event: RequestEvent) -> int:
        """What the finished request takes from it; slots are freed whatever it is."""
        if event.outcome == "refused":
            return 0
        if self.measure == "cost":
            return event.cost
        return self.weights.units(Usage(event.prompt_tokens, event.completion_tokens, event.cached_tokens))


class Note(msgspec.Struct, frozen=True, gc=False):
    """The event as it would read if the gateway died, what its tokens cost, and its limits, in admission's order."""

    event: RequestEvent
    price: Weights
    limits: tuple[Bound, ...]

    def reclaimed(self, prompt_tokens: int, completion_tokens: int) -> RequestEvent:
        """The event of a gateway that died after it had reported so much. What its KV cache held is not known, and not
        charged."""
        usage = Usage(prompt_tokens, completion_tokens)
        return msgspec.structs.replace(
            self.event,
            outcome="reclaimed",
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cost=cost_of(self.price, usage),
        )


def cost_of(price: Weights, usage: Usage) -> int:
    """Thousandths of a cost unit; nothing for a request that nothing was generated for."""
    return price.units(usage) if usage.prompt_tokens or usage.completion_tokens else 0


encode_note = msgspec.json.Encoder().encode
decode_note = msgspec.json.Decoder(Note).decode
