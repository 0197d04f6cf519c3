"""Instants, as people give them to commands and read them back. All of them UTC."""

import re
from datetime import UTC, datetime

import typer

SPAN = re.compile(r"([0-9]{1,6})([smhdw])")
AGO = re.compile(r"([1-9][0-9]{0,5})([mhdw])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def instant_ms(text: str, option: str, now_ms: int) -> int:
    """Milliseconds since the epoch from `2026-11-01`, `2026-11-01T10:30`, or `7d` (so long ago). A time without a zone
    is UTC. Raises typer.BadParameter."""
    ago = AGO.fullmatch(text)
    if ago is not None:
        return now_ms - int(ago[1]) * SECONDS[ago[2]] * 1000
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        wanted = "a date (2026-11-01), a time (2026-11-01T10:30, UTC), or how long ago (90m, 12h, 7d, 4w)"
        raise typer.BadParameter(wanted, param_hint=option) from None
    milliseconds = int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    if milliseconds < 0:
        raise typer.BadParameter("before 1970 there is nothing", param_hint=option)
    return milliseconds


def span_ms(text: str, option: str, *, least: int = 1) -> int:
    """`30d` as milliseconds. Raises typer.BadParameter."""
    match = SPAN.fullmatch(text)
    if match is None or int(match[1]) < least:
        raise typer.BadParameter("a number and one of s, m, h, d, w: 30d, for example", param_hint=option)
    return int(match[1]) * SECONDS[match[2]] * 1000


def month_start_ms(at_ms: int) -> int:
    """The first instant of the calendar month."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return int(datetime(at.year, at.month, 1, tzinfo=UTC).timestamp() * 1000)


def shown(at_ms: int, form: str) -> str:
    """An instant in a form of strftime."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime(form)
