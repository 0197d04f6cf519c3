"""What takes as long as usual: how long that is, and waiting for it."""

import statistics
from time import perf_counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane.usual import EVERY, LAST, MOST_S, Usual


@given(st.lists(st.floats(0, 1), min_size=1, max_size=2 * LAST))
def test_it_is_the_median_of_the_last_as_it_was_a_few_values_ago(values: list[float]) -> None:
    usual = Usual()
    medians = []
    for number, value in enumerate(values, 1):
        usual.hear(100, value)
        medians.append(statistics.median_high(values[max(number - LAST, 0) : number]))
    assert usual.of(100) in medians[-EVERY:]
    if len(values) < EVERY:
        assert usual.of(100) == medians[-1]


def test_each_size_has_its_own_and_the_nearest_speaks_for_what_has_none() -> None:
    usual = Usual()
    assert usual.of(100) == 0
    usual.hear(100, 1e-4)
    usual.hear(10_000, 4e-4)
    assert (usual.of(100), usual.of(127), usual.of(9000)) == (1e-4, 1e-4, 4e-4)
    assert (usual.of(0), usual.of(10**9), usual.of(300)) == (1e-4, 4e-4, 1e-4)


def took(usual: Usual, since: float = 0.0) -> float:
    began = perf_counter()
    usual.wait(100, began - since)
    return perf_counter() - began


def test_the_rest_of_it_is_waited_for_and_never_long() -> None:
    usual = Usual()
    assert statistics.median(took(usual) for _ in range(9)) < 1e-4, "nothing was heard: there is nothing to wait for"
    usual.hear(100, 3e-4)
    assert min(took(usual) for _ in range(9)) >= 3e-4
    assert min(took(usual, since=2e-4) for _ in range(99)) < 2e-4
    for _ in range(9):
        usual.hear(100, 10.0)
    assert MOST_S <= min(took(usual) for _ in range(99)) < 2 * MOST_S
