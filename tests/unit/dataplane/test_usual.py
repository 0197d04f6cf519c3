"""What takes as long as usual: how long that is, and waiting for it."""

import statistics
from time import perf_counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.dataplane.usual import EVERY, LAST, MOST_S, Usual, wait_until


@given(st.lists(st.floats(0, MOST_S), min_size=1, max_size=2 * LAST))
def test_it_is_the_median_of_the_last_as_it_was_a_few_values_ago(values: list[float]) -> None:
    usual = Usual()
    medians = []
    for number, value in enumerate(values, 1):
        usual.hear((7, "chat"), value)
        medians.append(statistics.median_high(values[max(number - LAST, 0) : number]))
    assert usual.of((7, "chat")) in medians[-EVERY:]
    if len(values) < EVERY:
        assert usual.of((7, "chat")) == medians[-1]


def test_each_kind_has_its_own_and_nobody_knows_what_was_never_heard() -> None:
    usual = Usual()
    assert usual.of((7, "chat")) is None
    usual.hear((7, "chat"), 1e-4)
    usual.hear((7, "completions"), 2e-4)
    usual.hear((14, "chat"), 4e-4)
    assert (usual.of((7, "chat")), usual.of((7, "completions")), usual.of((14, "chat"))) == (1e-4, 2e-4, 4e-4)
    assert (usual.of((14, "completions")), usual.of((8, "chat"))) == (None, None)


def test_what_takes_long_is_not_waited_for() -> None:
    usual = Usual()
    usual.hear((7, "chat"), MOST_S)
    assert usual.of((7, "chat")) == MOST_S
    usual.hear((7, "chat"), 10.0)
    assert usual.of((7, "chat")) is None


def test_a_moment_is_waited_for_and_one_that_is_past_is_not() -> None:
    def took(moment: float) -> float:
        began = perf_counter()
        wait_until(began + moment)
        return perf_counter() - began

    assert min(took(3e-4) for _ in range(9)) >= 3e-4
    assert min(took(1e-4) for _ in range(99)) < 2e-4
    assert statistics.median(took(-1.0) for _ in range(9)) < 1e-4
