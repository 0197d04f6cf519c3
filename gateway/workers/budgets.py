"""Budgets in Redis, as the ledger mends them: after each commit none of its subjects' stands below what is booked."""

from collections.abc import Mapping

import structlog
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gateway.quota import keys
from gateway.quota.scripts import RESTORE
from gateway.storage.budgets import ALL_MODELS, Account

NAME = "cost_per_month"
AT_ONCE = 200  # budgets in one script: it holds Redis for some hundred microseconds
MOST = 2**53 - 1  # Lua's numbers are doubles
LEAVE_ALONE = ""  # budgets that are not there: admission asks for them

log = structlog.get_logger()
raised_total = Counter("catflap_budgets_raised", "Budgets in Redis that stood below what the ledger had booked")


class Budgets:
    """Those of one Redis, alone or a cluster."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def raise_to(self, booked: Mapping[int, Mapping[Account, int]]) -> None:
        """Partition -> account -> thousandths of a cost unit. Budgets that Redis does not know are left alone. Raises
        redis.exceptions.RedisError, OSError or TimeoutError."""
        pipe = self._redis.pipeline(transaction=False)
        for partition, accounts in booked.items():
            for month in {account.month for account in accounts}:
                costs = {account: cost for account, cost in accounts.items() if cost > 0 and account.month == month}
                for some in chunks(list(costs)):
                    names = [keys.clock_key(partition), *(budget_of(partition, account) for account in some)]
                    amounts = [min(costs[account], MOST) for account in some]
                    # By its text: a cluster's pipeline takes no EVALSHA, and a fresh Redis knows no digest.
                    pipe.eval(RESTORE.text, len(names), *names, str(month), LEAVE_ALONE, *map(str, amounts))
        if not len(pipe):
            return
        replies = await pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, ResponseError):
                log.error("budgets_not_raised", error=str(reply).split(" ")[0])  # no reason to stop booking
            elif isinstance(reply, Exception):
                raise reply
            else:
                raised_total.inc(int(reply))


def budget_of(partition: int, account: Account) -> str:
    """The key of an account's budget."""
    name = NAME if account.model == ALL_MODELS else f"{NAME}@{account.model}"
    return keys.budget_key(partition, account.subject, name)


def chunks(accounts: list[Account]) -> list[list[Account]]:
    return [accounts[start : start + AT_ONCE] for start in range(0, len(accounts), AT_ONCE)]
