"""The judge of `catflap lab books`: what balances is let be, and one token, row or outcome that is wrong is named."""

import random
from typing import Any

import msgspec
import pytest

from lab.books.judge import Row, judge
from lab.books.mix import SHARES, Wish, wish
from lab.house.client import Seen
from lab.house.upstream import Order, Truth

ORDER = Order(id="r1", pieces=5, tokens=2)
WISH = Wish(
    name="r1",
    kind="streamed",
    key=0,
    order=ORDER,
    stream=True,
    include_usage=True,
    max_tokens=15,
)
PROMPT = WISH.prompt_tokens
TRUTH = Truth("r1", PROMPT, 10, True)
TOLD: dict[str, Any] = {"status": 200, "whole": True, "pieces": 5, "prompt_tokens": PROMPT, "completion_tokens": 10}
DROPPED = msgspec.structs.replace(WISH, order=msgspec.structs.replace(ORDER, end="drop"))


def seen(**fields: Any) -> Seen:
    return Seen(sent=0, last=1, **{**TOLD, **fields})


def row(**fields: Any) -> Row:
    values: dict[str, Any] = {"request": "req_1", "outcome": "completed", "prompt_tokens": PROMPT}
    values |= {"completion_tokens": 10, "reserved_tokens": WISH.reserved} | fields
    values.setdefault("cost", 4 * values["prompt_tokens"] + 16 * values["completion_tokens"])
    return Row(**values)


def problem(seen: Seen, *rows: Row, truth: Truth | None = TRUTH, of: Wish = WISH) -> str | None:
    return judge(of, seen, rows, [truth] if truth else []).problem


LEFT = {"left": True, "whole": False, "pieces": 3, "prompt_tokens": None, "completion_tokens": None}
BROKEN = {**LEFT, "left": False}
ERROR = {"code": "upstream_failed", "prompt_tokens": None, "completion_tokens": None}


@pytest.mark.parametrize(
    ("saw", "rows"),
    [
        (seen(), [row()]),
        (seen(prompt_tokens=None, completion_tokens=None), [row()]),
        (seen(**LEFT), [row(outcome="cancelled", completion_tokens=6)]),
        (seen(**LEFT), [row(outcome="cancelled", completion_tokens=10)]),
        (seen(**LEFT), [row()]),
        (seen(**{**LEFT, "pieces": 0}), []),
        (seen(**{**LEFT, "pieces": 0}), [row(outcome="refused", prompt_tokens=0, completion_tokens=0)]),
        (seen(**ERROR), [row(outcome="failed")]),
        (seen(**ERROR), [row(outcome="timeout")]),
        (seen(status=429, pieces=0), []),
        (seen(status=503, pieces=0), []),
        (seen(status=503, pieces=0), [row(outcome="reclaimed", prompt_tokens=0, completion_tokens=0)]),
    ],
)
def test_what_balances_is_let_be(saw: Seen, rows: list[Row]) -> None:
    assert problem(saw, *rows) is None


@pytest.mark.parametrize(
    ("saw", "rows", "says"),
    [
        (seen(), [], "no row"),
        (seen(), [row(), row()], "2 rows"),
        (seen(), [row(completion_tokens=9)], "9 tokens charged, 10 told"),
        (seen(), [row(completion_tokens=11)], "11 tokens charged, 10 generated"),
        (seen(), [row(prompt_tokens=PROMPT + 1)], "prompt tokens of"),
        (seen(), [row(prompt_tokens=0)], "its prompt is not charged"),
        (seen(), [row(cost=1)], "costs 1, not"),
        (seen(), [row(reserved_tokens=PROMPT + 5)], "reserved of"),
        (seen(), [row(outcome="reclaimed")], "is reclaimed"),
        (seen(), [row(outcome="failed")], "is failed"),
        (seen(**ERROR), [], "no row"),
        (seen(**ERROR), [row()], "is completed"),
        (seen(**ERROR), [row(outcome="failed", completion_tokens=8)], "8 tokens charged, 10 told or generated"),
        (seen(**LEFT), [], "no row for what was received"),
        (seen(**LEFT), [row(outcome="refused", prompt_tokens=0, completion_tokens=0)], "is refused"),
        (seen(**LEFT), [row(outcome="cancelled", completion_tokens=5)], "5 tokens charged, 6 received"),
        (seen(**LEFT), [row(outcome="cancelled", completion_tokens=11)], "11 tokens charged, 10 generated"),
        (seen(status=429, pieces=0), [row(outcome="refused", completion_tokens=0)], "that was refused"),
        (seen(status=503, pieces=0), [row(outcome="failed", completion_tokens=1)], "that was turned away"),
        (seen(**BROKEN), [], "no row, but the upstream was asked"),
        (seen(**BROKEN), [row(outcome="reclaimed", completion_tokens=11)], "11 tokens charged, 10 generated"),
    ],
)
def test_what_does_not_balance_is_named(saw: Seen, rows: list[Row], says: str) -> None:
    found = problem(saw, *rows)
    assert found is not None
    assert says in found


def test_a_broken_upstream_is_charged_for_at_least_what_the_client_got() -> None:
    failed = seen(**{**ERROR, "pieces": 4})
    booked = {"outcome": "failed", "prompt_tokens": DROPPED.prompt_tokens, "reserved_tokens": DROPPED.reserved}
    assert problem(failed, row(**booked, completion_tokens=8), of=DROPPED) is None
    assert problem(failed, row(**booked, completion_tokens=7), of=DROPPED) is not None


@pytest.mark.parametrize("saw", [seen(**BROKEN), seen(**LEFT)])
def test_what_a_killed_gateway_had_in_flight_is_listed_apart_with_its_bound(saw: Seen) -> None:
    judged = judge(WISH, saw, [row(outcome="reclaimed", completion_tokens=4)], [TRUTH])
    assert (judged.problem, judged.in_flight, judged.charged, judged.generated) == (None, True, 4, 10)


def test_only_a_killed_gateways_request_may_lack_a_row_where_redis_lost_its_reservation() -> None:
    assert judge(WISH, seen(**BROKEN), [], [TRUTH], forgotten=True).problem is None
    assert judge(WISH, seen(), [], [TRUTH], forgotten=True).problem is not None
    assert judge(WISH, seen(**LEFT), [], [TRUTH], forgotten=True).problem is not None


def test_a_request_that_never_reached_the_upstream_of_a_killed_gateway_may_have_no_row() -> None:
    assert problem(seen(**{**BROKEN, "pieces": 0, "status": 0}), truth=None) is None


def test_the_mix_has_every_kind_and_reserves_no_less_than_is_generated() -> None:
    chance = random.Random(1)
    wishes = [wish(number, chance, 6) for number in range(2000)]
    assert {one.kind for one in wishes} == set(SHARES)
    assert all(one.order.pieces * one.order.tokens <= one.max_tokens for one in wishes)
