"""The requests: what each client asks for, what becomes of it upstream, and when the client leaves. Pure.

An order stands at the beginning of the prompt, so that the upstream does as it is told and every generation can be
found again; `user` carries the same name into the ledger, as a digest.
"""

import random
from typing import Any, Literal

import msgspec

from lab.house.house import QUICK
from lab.house.upstream import End, Order

Kind = Literal[
    "whole", "streamed", "streamed without usage", "several", "long", "left", "left at once", "refused upstream",
    "failed", "dropped", "hanging", "wrong",
]  # fmt: skip
SHARES: dict[Kind, int] = {
    "whole": 30,
    "streamed": 22,
    "streamed without usage": 8,
    "several": 6,
    "long": 3,
    "left": 10,
    "left at once": 3,
    "refused upstream": 4,
    "failed": 5,
    "dropped": 3,
    "hanging": 3,
    "wrong": 3,
}
"""Of a hundred requests."""
ENDS: dict[Kind, End] = {"refused upstream": "refuse", "failed": "error", "dropped": "drop", "hanging": "hang"}
LONG_PIECES, LONG_GAP_MS = 40, 180  # seven seconds: its lease is renewed once


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """One request as its client means it."""

    name: str
    kind: Kind
    key: int
    order: Order
    max_tokens: int
    stream: bool = False
    include_usage: bool = False
    prompts: int = 1
    n: int = 1
    leave_after: int | None = None
    """The client hangs up after so many pieces."""

    @property
    def text(self) -> str:
        """Each of its prompts."""
        return msgspec.json.encode(self.order).decode()

    @property
    def prompt_tokens(self) -> int:
        """A prompt counts once, however many answers it gets."""
        return len(self.text) * self.prompts

    @property
    def reserved(self) -> int:
        """The most that it may use: what admission reserves."""
        return self.prompt_tokens + self.max_tokens * self.n * self.prompts

    def body(self) -> dict[str, Any]:
        """What is sent."""
        prompt: Any = self.text if self.prompts == 1 else [self.text] * self.prompts
        body = {"model": QUICK, "prompt": prompt, "max_tokens": self.max_tokens, "n": self.n, "user": self.name}
        if self.kind == "wrong":
            body["max_tokens"] = 0
        if self.stream:
            body |= {"stream": True, "stream_options": {"include_usage": self.include_usage}}
        return body


def wish(number: int, chance: random.Random, keys: int) -> Wish:
    """Request number so."""
    kind = chance.choices(list(SHARES), list(SHARES.values()))[0]
    pieces, gap_ms = chance.randint(1, 12), chance.choice([0, 0, 1, 5, 20])
    if kind == "long":
        pieces, gap_ms = LONG_PIECES, LONG_GAP_MS
    if kind in ("left", "failed", "dropped", "hanging"):
        pieces, gap_ms = chance.randint(3, 12), chance.choice([5, 20])
    if kind in ("failed", "dropped", "hanging") and chance.random() < 0.3:
        pieces = 0
    tokens = chance.randint(1, 4)
    order = Order(
        id=f"r{number}",
        pieces=pieces,
        tokens=tokens,
        wait_ms=200 if kind == "left at once" else chance.choice([0, 0, 3, 15]),
        gap_ms=gap_ms,
        end=ENDS.get(kind, "stop"),
    )
    stream = kind in ("streamed", "streamed without usage", "long", "left") or (
        kind in ("several", "failed", "dropped", "hanging") and chance.random() < 0.5
    )
    several = kind == "several"
    return Wish(
        name=order.id,
        kind=kind,
        key=chance.randrange(keys),
        order=order,
        stream=stream,
        include_usage=stream and kind != "streamed without usage",
        prompts=chance.randint(1, 3) if several else 1,
        n=chance.randint(2, 3) if several else 1,
        max_tokens=max(1, pieces * tokens) + chance.randint(0, 20),
        leave_after={"left": chance.randint(1, pieces) if pieces else 1, "left at once": 0}.get(kind),
    )
