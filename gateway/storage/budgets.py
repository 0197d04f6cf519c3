"""What subjects have spent in a calendar month: what budgets in Redis are restored from, and never stand below.

One row for each subject, model and month, kept in the transaction of the events themselves: reading it is a look-up by
primary key, however many events there are. An event belongs to the month, UTC, in which its request arrived.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import product
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.limits.budget import month_of
from gateway.storage.database import Database
from gateway.storage.tables import spend
from gateway.storage.usage import Change, add_rows

LEVELS = ("organisation", "project", "principal", "key")
ALL_MODELS = ""
REMEMBERED = 4096  # callers whose accounts are known
AT_ONCE = 1000  # SQLite takes 32,766 values in a statement, and these can be three each


class Account(NamedTuple):
    """Whose spending, on which model (ALL_MODELS: on any), in which month (202611)."""

    subject: str
    model: str
    month: int


async def spent(database: Database, wanted: Sequence[tuple[str, str]], month: int) -> list[int]:
    """Thousandths of a cost unit for each wanted (subject, model), in their order; 0 where there is nothing. `month` is
    202611. Waits no longer than the database's own timeout. Raises sqlalchemy.exc.SQLAlchemyError."""
    accounts = [Account(subject, model, month) for subject, model in wanted]
    async with database.read() as connection:
        found = await spent_by(connection, accounts)
    return [found[account] for account in accounts]


async def spent_by(connection: AsyncConnection, accounts: Iterable[Account]) -> dict[Account, int]:
    """What stands on each of these accounts."""
    found = dict.fromkeys(sorted(accounts), 0)
    wanted = list(found)
    for start in range(0, len(wanted), AT_ONCE):
        subjects, models, months = (set(column) for column in zip(*wanted[start : start + AT_ONCE], strict=True))
        # Column by column: SQLite scans the table for `(subject, model, month) in (...)`.
        query = select(spend).where(spend.c.subject.in_(subjects), spend.c.model.in_(models), spend.c.month.in_(months))
        for row in await connection.execute(query):
            account = Account(row.subject, row.model, row.month)
            if account in found:
                found[account] = row.cost
    return found


async def add_spend(connection: AsyncConnection, changes: Sequence[Change]) -> None:
    """Bring all accounts up to these changes."""
    sums: dict[Account, int] = {}
    for change in changes:
        for row, sign in ((change.old, -1), (change.new, 1)):
            if row is not None and row["cost"]:
                for account in accounts_of(row):
                    sums[account] = sums.get(account, 0) + sign * row["cost"]
    await add_rows(connection, spend, [{**account._asdict(), "cost": cost} for account, cost in sums.items()])


def accounts_of(row: Mapping[str, Any]) -> tuple[Account, ...]:
    """Those that an event is charged to: each of its subjects, for its model and for all models."""
    return _accounts(*_charged(row), month_of(row["at_ms"])[0])


_charged = itemgetter("model", *LEVELS)


@lru_cache(REMEMBERED)
def _accounts(model: str, *subjects_and_month: Any) -> tuple[Account, ...]:
    *subjects, month = subjects_and_month
    pairs = product(dict.fromkeys(subjects), (ALL_MODELS, model))
    return tuple(Account(subject, one, month) for subject, one in pairs)
