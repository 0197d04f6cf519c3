"""The ledger's books, audited: what is kept beside the events is counted again from them."""

from collections import Counter
from typing import Any

from sqlalchemy import select

from gateway.storage.budgets import accounts_of
from gateway.storage.database import Database
from gateway.storage.tables import request_event, spend
from gateway.storage.usage import AMOUNTS, DIMENSIONS, TABLES, Change, rolled_up


async def audit(database: Database) -> None:
    """Fails unless roll-ups and spend are exactly what the events say; rows that came back to nothing do not count."""
    async with database.read() as connection:
        events = [dict(row) for row in (await connection.execute(select(request_event))).mappings()]
        for table, span_ms in TABLES.values():
            kept = [dict(row) for row in (await connection.execute(select(table))).mappings()]
            assert by_place(kept) == by_place(rolled_up([Change(None, event) for event in events], span_ms))
        accounts = {tuple(row[:3]): row.cost for row in await connection.execute(select(spend)) if row.cost}
    counted: Counter[Any] = Counter()
    for event in events:
        for account in accounts_of(event):
            counted[tuple(account)] += event["cost"]
    assert accounts == {account: cost for account, cost in counted.items() if cost}


def by_place(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], tuple[int, ...]]:
    found = {
        (row["start_ms"], *(row[name] for name in DIMENSIONS)): tuple(int(row[name]) for name in AMOUNTS)
        for row in rows
    }
    assert all(amounts[0] >= 0 for amounts in found.values())
    return {place: amounts for place, amounts in found.items() if any(amounts)}


async def totals(database: Database) -> dict[str, int]:
    """The sum of each amount over the hourly roll-up."""
    async with database.read() as connection:
        rows = [dict(row) for row in (await connection.execute(select(TABLES["hour"][0]))).mappings()]
    return {name: sum(int(row[name]) for row in rows) for name in AMOUNTS}
