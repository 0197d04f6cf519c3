"""When a policy has an effect: from, until, and windows of the week, in UTC."""

from typing import NamedTuple, get_args

from gateway.core.facts import DAY_S, NowFacts
from gateway.policy.document import Document, Path
from gateway.policy.model import Day, Schedule
from gateway.policy.problem import PolicyError

_DAYS: tuple[str, ...] = get_args(Day)
_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class Span(NamedTuple):
    """Minutes of the day from `start` to before `end` on these weekdays (1 is Monday); over midnight where `end` is not
    after `start`, and then the days are those on which it begins."""

    days: frozenset[int]
    start: int
    end: int


class Times(NamedTuple):
    """Seconds since the epoch; `spans` empty: at all hours."""

    start: int | None
    until: int | None
    spans: tuple[Span, ...]

    @property
    def always(self) -> bool:
        return self.start is None and self.until is None and not self.spans

    def hold(self, now: NowFacts) -> bool:
        """Whether this is such a time. `until` itself is too late."""
        if (self.start is not None and now.unix < self.start) or (self.until is not None and now.unix >= self.until):
            return False
        return not self.spans or any(_inside(span, now) for span in self.spans)


def compile_schedule(document: Document, schedule: Schedule) -> Times:
    """Raises PolicyError."""
    place: Path = ("spec", "schedule")
    start = None if schedule.start is None else _moment(document, schedule.start, (*place, "from"))
    until = None if schedule.until is None else _moment(document, schedule.until, (*place, "until"))
    if start is not None and until is not None and start >= until:
        raise PolicyError(document.file, document.line((*place, "until")), "until is not after from; it never holds.")
    spans = tuple(
        Span(frozenset(_DAYS.index(day) + 1 for day in window.days), _minutes(window.start), _minutes(window.end))
        for window in schedule.windows
    )
    return Times(start, until, spans)


def unix_of(moment: str) -> int:
    """Seconds since the epoch of `2026-11-22T10:00Z` or `2026-11-22T10:00:00Z`. Raises ValueError for no such moment.

    Days are counted as in the civil calendar whose years begin in March, so that the leap day is a year's last.
    """
    date, clock = moment.removesuffix("Z").split("T")
    year, month, day = map(int, date.split("-"))
    hour, minute, second = [*map(int, clock.split(":")), 0][:3]
    leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not 1 <= month <= 12 or not 1 <= day <= _LENGTHS[month - 1] + leap or hour > 23 or minute > 59 or second > 59:
        raise ValueError(moment)
    march_year, march_month = (year, month - 3) if month > 2 else (year - 1, month + 9)
    days = march_year * 365 + march_year // 4 - march_year // 100 + march_year // 400
    days += (153 * march_month + 2) // 5 + day - 1 - 719_468
    return days * DAY_S + hour * 3600 + minute * 60 + second


def _inside(span: Span, now: NowFacts) -> bool:
    minute = now.hour * 60 + now.minute
    if span.start < span.end:
        return now.weekday in span.days and span.start <= minute < span.end
    yesterday = (now.weekday + 5) % 7 + 1
    return (now.weekday in span.days and minute >= span.start) or (yesterday in span.days and minute < span.end)


def _moment(document: Document, text: str, path: Path) -> int:
    try:
        return unix_of(text)
    except ValueError as problem:
        raise PolicyError(document.file, document.line(path), f"there is no moment {text}.") from problem


def _minutes(hour: str) -> int:
    return int(hour[:2]) * 60 + int(hour[3:])
