"""The calendar and the budget of the oracle."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.budget import Budget, month_of


@given(st.datetimes(datetime(1970, 1, 1), datetime(2400, 1, 1), timezones=st.just(UTC)))
def test_a_month_begins_and_ends_as_the_calendar_says(moment: datetime) -> None:
    wall_ms = int(moment.timestamp()) * 1000
    month, left = month_of(wall_ms)
    assert month == moment.year * 100 + moment.month
    following = datetime.fromtimestamp((wall_ms + left) / 1000, UTC)
    assert (following.day, following.hour, following.minute, following.second) == (1, 0, 0, 0)
    assert timedelta(0) < following - moment.replace(microsecond=0) <= timedelta(days=31)


def test_a_new_month_begins_at_nothing_and_a_clock_that_steps_back_does_not_bring_the_old_one_again() -> None:
    march = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) * 1000
    budget = Budget(100, 202602, 90)
    budget.slide(march - 1)
    assert budget.used == 90
    budget.slide(march)
    assert (budget.month, budget.used) == (202603, 0)
    budget.slide(march - 3_600_000)
    assert (budget.month, budget.used) == (202603, 0)


def test_what_was_reserved_in_one_month_is_not_corrected_in_the_next() -> None:
    budget = Budget(100, 202603, 40)
    budget.correct(202602, -10)
    assert budget.used == 40
    budget.correct(202603, -10)
    assert budget.used == 30


def test_a_known_budget_never_stands_below_the_ledger_and_an_unknown_one_is_made_only_when_asked() -> None:
    budget = Budget(100)
    budget.restore(202603, 70, make=False)
    budget.restore(202603, 50, make=True)
    budget.restore(202603, 40, make=True)
    budget.restore(202602, 90, make=False)
    assert budget.used == 50
    budget.restore(202603, 60, make=False)
    assert budget.used == 60
