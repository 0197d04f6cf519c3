"""How slow a busy day is: quantiles of what was recorded, and nothing where too little was."""

from gateway.dataplane.spreads import FEWEST, QUANTILES, spread_of
from gateway.storage.times import Served


def served(number: int) -> list[Served]:
    return [Served(first_ms=at, duration_ms=at + 10 * 19, tokens=20) for at in range(number)]


def test_the_quantiles_go_from_the_fastest_to_the_slowest() -> None:
    spread = spread_of(served(1001))
    assert spread is not None
    assert len(spread.first_ms) == len(spread.gap_ms) == QUANTILES + 1
    assert (spread.first_ms[0], spread.first_ms[QUANTILES // 2], spread.first_ms[-1]) == (0, 500, 1000)
    assert set(spread.gap_ms) == {10}


def test_of_too_few_requests_nothing_is_known() -> None:
    assert spread_of(served(FEWEST - 1)) is None
    assert spread_of(served(FEWEST)) is not None


def test_answers_of_one_token_have_no_gaps() -> None:
    assert spread_of([Served(5, 5, 1)] * 1000) is None
