"""The auditor. It knows a limit and what clients wrote down, and nothing of gateways or Redis. Pure.

A client knows when it sent a request and when the first byte of the answer was there; somewhere between the two lies
the instant at which the limit was taken, or refused. That is enough for two judgements, neither of which can be wrong:

- **above the limit**: requests sent at or after t and answered before t + 60 s were all taken within that minute. If
  they are more than the limit in any minute, too much was admitted. (A slot is surely held from the first byte until
  the least time that an answer takes has passed since the request was sent.)
- **refused without cause**: a refusal is right if what may have been taken before it, within the minute and the one
  bucket that a window may be longer, leaves too little room. If even all that *may* have been taken leaves room, the
  limit gave something away.

Together: with demand always there, every window is full up to the width of a bucket. Requests whose fate the client
does not know count against no limit, and for every refusal. Sizes are fixed: what is reserved is what is charged.
"""

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import msgspec

Fate = Literal["admitted", "refused", "unknown"]

SETTLED_WITHIN_S = 1.0
"""A slot is free for others so long after the last byte at the latest; a gateway settles in the same breath."""


class Ask(msgspec.Struct, frozen=True):
    """One request as its client saw it, in seconds of one clock. `units`: what it takes from the limit."""

    sent: float
    first: float
    last: float
    units: int
    fate: Fate

    @property
    def until(self) -> float:
        """The limit was taken before this instant, if it was."""
        return math.inf if self.fate == "unknown" else self.first


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be said of one limit of one subject."""

    cap: int
    admitted: int
    refused: int
    unknown: int
    asked: float
    """Demand as a multiple of what the limit allows."""
    fullest: int
    """The most units that surely were within one window, or slots that surely were held at once."""
    wrong: int
    """Refusals without cause."""
    used: float
    """The part of the limit that was used while demand lasted, by what may have been; of a window that is longer than
    the run, what was used in the end."""

    @property
    def over(self) -> int:
        """Units above the limit."""
        return max(0, self.fullest - self.cap)

    @property
    def exact(self) -> bool:
        """Never above, never refused without cause."""
        return not self.over and not self.wrong


def audit_window(asks: Sequence[Ask], cap: int, window_s: float, bucket_s: float) -> Verdict:
    """A sliding window, which may be longer by one bucket. A month: one that is longer than the run, and no bucket."""
    taken = [ask for ask in asks if ask.fate != "refused"]
    sure = [ask for ask in asks if ask.fate == "admitted"]
    fullest = max((_within(sure, ask.sent, window_s) for ask in sure), default=0)
    held, wrong = [], 0
    for ask in asks:
        if ask.fate == "refused":
            may = _may_have_been_taken(taken, ask, window_s + bucket_s)
            held.append(min(may / cap, 1.0))
            wrong += may + ask.units <= cap
    length = max((ask.first for ask in asks), default=0.0) - min((ask.sent for ask in asks), default=0.0)
    return Verdict(
        cap=cap,
        admitted=len(sure),
        refused=len(held),
        unknown=len(taken) - len(sure),
        asked=sum(ask.units for ask in asks) / cap / max(length / window_s, 1.0),
        fullest=fullest,
        wrong=wrong,
        used=(statistics.median(held) if length > window_s else held[-1]) * window_s / (window_s + bucket_s)
        if held
        else 0.0,
    )


def audit_slots(asks: Sequence[Ask], cap: int, least_s: float, clients: int) -> Verdict:
    """Requests at a time, of which each takes `least_s` at least, and so many clients want one all the time."""
    taken = [ask for ask in asks if ask.fate != "refused"]
    sure = [ask for ask in asks if ask.fate == "admitted"]
    refused = [ask for ask in asks if ask.fate == "refused"]
    wrong = 0
    for ask in refused:
        wrong += sum(one.sent < ask.first and _free_at(one) > ask.sent for one in taken) < cap
    return Verdict(
        cap=cap,
        admitted=len(sure),
        refused=len(refused),
        unknown=len(taken) - len(sure),
        asked=clients / cap,
        fullest=_most_at_once([(ask.first, ask.sent + least_s) for ask in sure]),
        wrong=wrong,
        used=_share_of_time([(ask.sent, ask.last) for ask in taken], refused, cap),
    )


def _within(sure: Sequence[Ask], start: float, window_s: float) -> int:
    return sum(ask.units for ask in sure if ask.sent >= start and ask.first < start + window_s)


def _may_have_been_taken(taken: Sequence[Ask], refused: Ask, within_s: float) -> int:
    """The most units that could count at the instant of the refusal, whenever that was."""
    return sum(ask.units for ask in taken if ask.sent < refused.first and ask.until > refused.sent - within_s)


def _free_at(ask: Ask) -> float:
    return math.inf if ask.fate == "unknown" else ask.last + SETTLED_WITHIN_S


def _most_at_once(spans: Sequence[tuple[float, float]]) -> int:
    most = now = 0
    for _, step in _steps(spans):
        now += step
        most = max(most, now)
    return most


def _share_of_time(spans: Sequence[tuple[float, float]], refused: Sequence[Ask], cap: int) -> float:
    """How much of the slots' time was taken from the first refusal to the last: as long as demand is known to be."""
    if len(refused) < 2:
        return 0.0
    begin, end = refused[0].sent, max(ask.first for ask in refused)
    clipped = [(max(start, begin), min(stop, end)) for start, stop in spans]
    used, now = 0.0, 0
    for (at, step), (then, _) in pairwise([*_steps(clipped), (end, 0)]):
        now += step
        used += min(now, cap) * (then - at)
    return used / (cap * (end - begin))


def _steps(spans: Sequence[tuple[float, float]]) -> list[tuple[float, int]]:
    """Beginnings and ends in order of time; an end comes before a beginning of the same instant."""
    real = [span for span in spans if span[0] < span[1]]
    return sorted([(start, 1) for start, _ in real] + [(stop, -1) for _, stop in real])
