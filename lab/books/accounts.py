"""What is kept beside the rows, counted again from them: the roll-ups, what subjects have spent, Redis's budgets."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from gateway.storage.tables import request_event, spend, usage_day, usage_hour
from lab.house.house import House

LEVELS = ("organisation", "project", "principal", "key")
AMOUNTS = ("prompt_tokens", "completion_tokens", "cost")
SPANS_MS = {"hour": 3_600_000, "day": 86_400_000}

Sums = Counter[tuple[Any, ...]]


async def differences(house: House) -> list[str]:
    """In sentences; none where everything fits."""
    async with house.database.read() as connection:
        rows = [dict(row) for row in (await connection.execute(select(request_event))).mappings()]
        kept = {
            span: [dict(row) for row in (await connection.execute(select(table))).mappings()]
            for span, table in (("hour", usage_hour), ("day", usage_day))
        }
        spent = {(row.subject, row.month): row.cost for row in await connection.execute(select(spend)) if not row.model}
    found = [
        f"the {span}'s roll-up of {place} differs from its rows"
        for span, span_ms in SPANS_MS.items()
        for place in _unequal(_rolled(kept[span]), _summed(rows, span_ms))
    ]
    owed = _owed(rows)
    found += [
        f"spend of {subject} is {spent.get(subject, 0)}, not {owed[subject]}" for subject in _unequal(spent, owed)
    ]
    return found + _budgets(house, spent)


def _summed(rows: list[dict[str, Any]], span_ms: int) -> Sums:
    sums: Sums = Counter()
    for row in rows:
        start = row["at_ms"] - row["at_ms"] % span_ms
        for amount in AMOUNTS:
            sums[start, row["key"], row["outcome"], amount] += row[amount]
        sums[start, row["key"], row["outcome"], "requests"] += 1
    return sums


def _rolled(rows: list[dict[str, Any]]) -> Sums:
    sums: Sums = Counter()
    for row in rows:
        for amount in (*AMOUNTS, "requests"):
            sums[row["start_ms"], row["key"], row["outcome"], amount] += int(row[amount])
    return sums


def _owed(rows: list[dict[str, Any]]) -> dict[Any, int]:
    owed: Counter[Any] = Counter()
    for row in rows:
        at = datetime.fromtimestamp(row["at_ms"] / 1000, UTC)
        for level in LEVELS:
            owed[row[level], at.year * 100 + at.month] += row["cost"]
    return owed


def _unequal(left: dict[Any, int], right: dict[Any, int]) -> list[Any]:
    return [place for place in {*left, *right} if left.get(place, 0) != right.get(place, 0)]


def _budgets(house: House, spent: dict[Any, int]) -> list[str]:
    """Redis's budgets against the ledger's spend."""
    found = []
    with house.redis.client() as client:
        for name in client.scan_iter("cf:*:budget:*"):
            month, used = (int(value or 0) for value in client.hmget(name, "month", "used"))
            subject = name.decode().split(":")[3]
            if used != spent.get((subject, month), 0):
                found.append(f"the budget of {subject} stands at {used}, its spend at {spent.get((subject, month), 0)}")
    return found
