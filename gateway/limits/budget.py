"""The rules of a budget, as a model in plain Python: the oracle that the Lua scripts are tested against.

A budget is a calendar month's, in UTC: what is reserved in a month is charged to that month, whenever it settles.
"""

from dataclasses import dataclass

DAY_MS = 86_400_000


def month_of(wall_ms: int) -> tuple[int, int]:
    """(month as yyyymm, milliseconds until the next one begins) at `wall_ms` since the epoch, in UTC.

    Integers only, so that Lua does the same (the civil calendar from a count of days, years beginning in March).
    """
    days = wall_ms // DAY_MS + 719_468
    era, day_of_era = divmod(days, 146_097)
    year = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    march_month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * march_month + 2) // 5
    month = march_month + 3 if march_month < 10 else march_month - 9
    year += era * 400 + (month <= 2)
    left = (days_in(year, month) - day) * DAY_MS - wall_ms % DAY_MS
    return year * 100 + month, left


def days_in(year: int, month: int) -> int:
    """Days of a month."""
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


@dataclass
class Budget:
    """At most `cap` units a month; `used` is None where Redis does not know it."""

    cap: int
    month: int = 0
    used: int | None = None

    def slide(self, wall_ms: int) -> None:
        """Begin a new month if it is time. A clock that steps back over the end of a month begins none again."""
        month = month_of(wall_ms)[0]
        if self.used is not None and month > self.month:
            self.month, self.used = month, 0

    def correct(self, month: int, delta: int) -> None:
        """A request settled: its month, if it is still this one, changes by `delta`."""
        if self.used is not None and self.month == month:
            self.used += delta

    def restore(self, month: int, spent: int, *, make: bool) -> None:
        """The ledger has counted so much: it never stands below that. `make`: also where it is not known."""
        if self.used is None and make:
            self.month, self.used = month, spent
        elif self.used is not None and self.month == month:
            self.used = max(self.used, spent)
