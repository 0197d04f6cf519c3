"""The oracle itself: a limit of L admits at most L in any window, and what it promises comes true."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits.window import Clock, Window

CAP, WINDOW_MS, BUCKET_MS = 10, 6_000, 1_000


@given(st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 6)), max_size=60))
def test_no_stretch_as_long_as_the_window_holds_more_than_the_cap(arrivals: list[tuple[int, int]]) -> None:
    window, now, taken = Window(CAP, WINDOW_MS, BUCKET_MS), 1_000_000, []
    for gap, cost in arrivals:
        now += gap
        if window.fits(now, cost):
            window.take(now, cost)
            taken.append((now, cost))
        assert sum(units for at, units in taken if now - WINDOW_MS < at) <= CAP


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 6)), min_size=1, max_size=40), st.integers(1, CAP))
def test_a_refused_request_fits_after_the_wait_that_it_was_told_and_not_before(
    arrivals: list[tuple[int, int]], cost: int
) -> None:
    window, now = Window(CAP, WINDOW_MS, BUCKET_MS), 1_000_000
    for gap, units in arrivals:
        now += gap
        if window.fits(now, units):
            window.take(now, units)
    wait = window.retry_after(now, cost)
    assert (wait == 0) == window.fits(now, cost)
    if wait:
        assert wait <= WINDOW_MS + BUCKET_MS
        assert not window.fits(now + wait - 1, cost)
        assert window.fits(now + wait, cost)


@given(st.integers(1, 10), st.integers(0, 10))
def test_a_settled_request_gives_back_what_it_did_not_use(cost: int, used: int) -> None:
    window = Window(CAP, WINDOW_MS, BUCKET_MS)
    bucket = window.take(1_000_000, cost)
    window.correct(bucket, used - cost)
    assert window.used() == used
    window.slide(1_000_000 + WINDOW_MS + BUCKET_MS)
    window.correct(bucket, 5)
    assert window.used() == 0


@given(st.lists(st.integers(-5_000, 5_000), max_size=50))
def test_the_clock_never_goes_back_and_goes_on_after_a_step_back(steps: list[int]) -> None:
    clock, wall = Clock(), 1_000_000
    last = clock.now(wall)
    for step in steps:
        wall += step
        now = clock.now(wall)
        assert now - last == max(step, 0)
        last = now
