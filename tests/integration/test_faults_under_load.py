"""Parts die under a steady load through two gateways: clients are refused at once or not at all, nobody waits for a
part to come back, and nothing that was told is lost. `catflap lab faults` is the long form, and prints the table."""

import pytest
import pytest_asyncio

from lab.faults.run import AFTER_S, Finding, run_async
from lab.house.postgres import find_postgres
from tests.support.missing import missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

AWAY_S = 3.0


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def findings() -> dict[str, Finding]:
    if find_postgres() is None:
        missing("PostgreSQL (initdb, pg_ctl)")
    result = await run_async(seconds=AWAY_S, ledger_seconds=AWAY_S, say=lambda line: None)
    return {one.fault: one for one in result.findings}


async def test_nothing_that_a_client_was_told_is_lost_to_any_fault(findings: dict[str, Finding]) -> None:
    assert len(findings) == 5
    assert not [problem for one in findings.values() for problem in one.lost]


async def test_without_redis_clients_get_503_and_afterwards_200_again(findings: dict[str, Finding]) -> None:
    for fault in ("Redis is killed (SIGKILL)", "Redis is paused (SIGSTOP)"):
        one = findings[fault]
        assert set(one.statuses) == {"200", "503"}, one
        assert one.seconds[1].keys() == {"503"}, one  # a whole second of the outage: nobody is let in unchecked
        assert one.back_s < AFTER_S - 1, one
        assert one.seconds[-2].keys() == {"200"}, one


async def test_nobody_waits_for_redis_to_come_back(findings: dict[str, Finding]) -> None:
    for fault in ("Redis is killed (SIGKILL)", "Redis is paused (SIGSTOP)"):
        assert findings[fault].longest_s < AWAY_S / 2, findings[fault]


async def test_of_a_flush_a_stopped_database_and_a_dead_ledger_clients_see_nothing(
    findings: dict[str, Finding],
) -> None:
    for fault in ("Redis is flushed (FLUSHALL)", "the database is stopped", "the ledger is killed"):
        assert set(findings[fault].statuses) == {"200"}, findings[fault]
