"""Admission asks the ledger for a budget that nobody knows once, however many requests wait for the answer."""

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from gateway.core.caller import Caller
from gateway.core.delta import Usage
from gateway.core.reservation import Denial, Reservation
from gateway.limits.plans import Limit
from gateway.limits.weights import Weights
from gateway.quota import keeper
from gateway.quota.connection import RedisRefused, RedisUnavailable
from gateway.quota.gateways import Part
from gateway.quota.keeper import Quota
from gateway.quota.local import LocalLimits
from gateway.quota.protocol import Connection
from tests.support.events import make_event

CALLER = Caller(organisation="org_1", project="proj_1", principal="prin_1", key="key_1", plan="free")


class Away:
    """A connection to a Redis that is away, or that refuses."""

    def __init__(self, why: Exception) -> None:
        self._why = why

    def call(self, *_: object) -> "asyncio.Future[object]":
        future = asyncio.get_running_loop().create_future()
        future.set_exception(self._why)
        return future


class Ledger:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.error: Exception | None = None

    async def spent(self, wanted: Sequence[tuple[str, str]], month: int) -> Sequence[int]:
        self.asked += 1
        await self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return [30] * len(wanted)


def budget(subject: str = "key_1", cap: int = 100) -> Limit:
    return Limit("cost_per_month", "key", subject, "cost", cap, 0, 0, None, Weights())


def alone(ledger: Ledger, why: Exception | None = None) -> Quota:
    connection = cast(Connection, Away(why or RedisUnavailable("planted")))
    return Quota(connection, 1, spent=ledger.spent, local=LocalLimits(lambda: Part(1, 0)))


def ask(quota: Quota, number: int, limit: Limit | None = None) -> "asyncio.Task[Reservation | Denial]":
    limits = (limit or budget(),)
    event = make_event(number, request=f"req_{number}")
    return asyncio.create_task(quota.admit(CALLER, limits, Usage(1, 0), event, Usage(), Weights()))


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_requests_on_one_unknown_budget_share_one_look_up_and_none_is_given_twice() -> None:
    ledger = Ledger()
    quota = alone(ledger)
    tasks = [ask(quota, number, budget(cap=70)) for number in range(60)]
    await turns()
    ledger.may_answer.set()
    answers = await asyncio.gather(*tasks)
    assert ledger.asked == 1
    assert sum(isinstance(answer, Reservation) for answer in answers) == 40


async def test_other_budgets_and_later_requests_ask_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger()
    quota = alone(ledger)
    tasks = [ask(quota, number, budget(f"key_{number % 3}")) for number in range(9)]
    await turns()
    assert ledger.asked == 3
    monkeypatch.setattr(keeper, "MAX_LOOKUPS", 3)
    tasks += [ask(quota, number, budget("key_more")) for number in (10, 11)]
    await turns()
    assert ledger.asked == 5, "those that are shared are bounded"
    ledger.may_answer.set()
    await asyncio.gather(*tasks)
    await quota._spent_on([budget("key_1")], 202_611)
    assert ledger.asked == 6, "nothing is remembered"


async def test_an_error_of_the_ledger_is_everybodys_and_the_next_request_asks_again() -> None:
    ledger = Ledger()
    quota = alone(ledger)
    ledger.error = RedisUnavailable("no ledger either")
    tasks = [ask(quota, number) for number in range(5)]
    await turns()
    ledger.may_answer.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(answer) for answer in answers] == ["no ledger either"] * 5
    ledger.error = None
    assert isinstance(await ask(quota, 6), Reservation)
    assert ledger.asked == 2


async def test_a_caller_that_gives_up_takes_the_answer_from_nobody() -> None:
    ledger = Ledger()
    quota = alone(ledger)
    first, second = ask(quota, 1), ask(quota, 2)
    await turns()
    first.cancel()
    await turns()
    ledger.may_answer.set()
    assert isinstance(await second, Reservation)
    assert first.cancelled()
    assert ledger.asked == 1


async def test_an_error_that_nobody_waits_for_any_more_disturbs_nobody() -> None:
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: heard.append(context))
    ledger = Ledger()
    quota = alone(ledger)
    ledger.error = RedisUnavailable("planted")
    only = ask(quota, 1)
    await turns()
    only.cancel()
    ledger.may_answer.set()
    await turns()
    assert not heard
    assert not quota._lookups


async def test_a_gateway_goes_on_alone_where_redis_is_away_and_not_where_it_refuses_the_command() -> None:
    ledger = Ledger()
    ledger.may_answer.set()
    assert isinstance(await ask(alone(ledger), 1), Reservation)
    with pytest.raises(RedisRefused):
        await ask(alone(ledger, RedisRefused("ERR planted")), 2)
