"""What the ledger must hold for each way in which a request can end, by what its client saw. Pure.

- **told**: the answer came to its end. One row, `completed`, with exactly the tokens told (where usage was not asked
  for: exactly what was generated), whatever died afterwards.
- **error**: as the answer (502, 504) or in the stream. One row, `failed` or `timeout`, with the tokens generated: all
  of them, or, where the upstream's connection broke, no fewer than the client got.
- **left**: the client hung up. One row (none where it left before any answer), `cancelled`, or `completed` where it
  left as the answer ended; no fewer tokens than it got, no more than were generated. Or `refused` with no tokens, where
  nobody waited for the admission any more.
- **absent**: 400, 401, 429. Nothing.
- **away**: 503, gateway or Redis. Nothing, or one row of a reservation that nobody used: no tokens.
- **broken**: the connection broke, because the gateway was killed. Listed apart, and so is `left` where the gateway was
  killed later: one row if the upstream was ever asked; what it charges is what the gateway last reported, or all where
  it had settled; its bound is what was generated. No row where Redis had lost the reservation before: nobody is left
  who knows of it.

In every row the cost is that of its tokens, the reservation is that of its request, and no row has more than was
reserved. What the upstream wrote down is the truth of what was generated.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from lab.books.mix import Wish
from lab.house.client import Seen
from lab.house.upstream import Truth

COSTS = {"prompt": 4.0, "output": 16.0}
ENDED: dict[str, tuple[str, ...]] = {
    "told": ("completed",),
    "left": ("cancelled", "completed"),
    "error": ("failed", "timeout"),
}
ABSENT = (400, 401, 429)

How = Literal["told", "error", "left", "absent", "away", "broken"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the ledger, as far as it is judged."""

    request: str
    outcome: str
    prompt_tokens: int
    completion_tokens: int
    reserved_tokens: int
    cost: int


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One request held against the books. `in_flight`: its gateway was killed, so that its row is only bounded."""

    name: str
    how: How
    prompt: int
    """Tokens of its prompt that were charged."""
    charged: int
    """Tokens of its answer that were charged."""
    generated: int
    """Tokens of its answer that the upstream generated: what can be charged at most."""
    in_flight: bool
    problem: str | None


def how(seen: Seen) -> How:
    """Which line of the table."""
    if seen.left:
        return "left"
    if seen.status in ABSENT:
        return "absent"
    if seen.status == 503:
        return "away"
    if not seen.whole or not seen.status:
        return "broken"
    return "error" if seen.status >= 400 or seen.code else "told"


def judge(wish: Wish, seen: Seen, rows: Sequence[Row], truths: Sequence[Truth], *, forgotten: bool = False) -> Judged:
    """Whether the rows of one request are right. `forgotten`: Redis may have lost its reservation."""
    end, generated = how(seen), sum(truth.tokens for truth in truths)
    row = rows[0] if rows else None
    reclaimed = row is not None and row.outcome == "reclaimed"
    in_flight = end == "broken" or (end == "left" and reclaimed)
    problem = None
    if len(rows) > 1:
        problem = f"{len(rows)} rows"
    elif row is None:
        problem = _missing(end, seen, truths, forgotten=forgotten)
    else:
        problem = _books(wish, row) or _charged(wish, seen, row, end, generated, in_flight=in_flight)
    return Judged(
        name=wish.name,
        how=end,
        prompt=row.prompt_tokens if row else 0,
        charged=row.completion_tokens if row else 0,
        generated=generated,
        in_flight=in_flight,
        problem=problem and f"{wish.name} ({wish.kind}; {end}, {seen.status}): {problem}",
    )


def _missing(end: How, seen: Seen, truths: Sequence[Truth], *, forgotten: bool) -> str | None:
    """There is no row: may that be?"""
    if forgotten and end == "broken":
        return None
    if end in ("told", "error"):
        return "no row"
    if end == "left" and seen.pieces:
        return "no row for what was received"
    if end == "broken" and truths:
        return "no row, but the upstream was asked"
    return None


def _books(wish: Wish, row: Row) -> str | None:
    """What holds for every row."""
    price = int(COSTS["prompt"]) * row.prompt_tokens + int(COSTS["output"]) * row.completion_tokens
    if row.cost != price:
        return f"costs {row.cost}, not {price}"
    if row.prompt_tokens not in (0, wish.prompt_tokens):
        return f"{row.prompt_tokens} prompt tokens of {wish.prompt_tokens}"
    if row.prompt_tokens + row.completion_tokens > row.reserved_tokens or row.reserved_tokens != wish.reserved:
        return f"{row.completion_tokens} tokens, {row.reserved_tokens} reserved of {wish.reserved}"
    return None


def _charged(wish: Wish, seen: Seen, row: Row, end: How, generated: int, *, in_flight: bool) -> str | None:
    """What the row charges, by how the request ended."""
    charged, received = row.completion_tokens, seen.pieces * wish.order.tokens
    if end == "absent":
        return "a row for a request that was refused"
    if end == "away":
        return f"{row.outcome}, {charged} tokens for a request that was turned away" if charged else None
    if end == "left" and row.outcome == "refused" and not (charged or row.prompt_tokens or received):
        return None
    if not in_flight and row.outcome not in ENDED[end]:
        return f"is {row.outcome}"
    if charged > generated:
        return f"{charged} tokens charged, {generated} generated"
    if in_flight:
        return None
    exactly = end == "told" or (end == "error" and wish.order.end != "drop")
    told = generated if seen.completion_tokens is None else seen.completion_tokens
    if exactly and charged != told:
        return f"{charged} tokens charged, {told} told or generated"
    if exactly and charged and row.prompt_tokens != wish.prompt_tokens:
        return "its prompt is not charged"
    if wish.stream and charged < received:
        return f"{charged} tokens charged, {received} received"
    return None
