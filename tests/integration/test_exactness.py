"""Limits mean what they say: every kind at every level, over four gateway processes and 250 clients, on Redis 6.2, 7.0
and a Cluster of three masters at once, judged from the clients' own log (lab/exactness). The load is kept small enough
for two cores; `catflap lab exactness` is the long form."""

import msgspec
import pytest
import pytest_asyncio

from lab.bench.errors import BenchError
from lab.exactness.audit import audit_window
from lab.exactness.cases import Load
from lab.exactness.run import WINDOWS, Finding, Result, name, run_async
from lab.house.redis import KINDS, server_program
from tests.support.missing import missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

LOAD = Load(seconds=66.0, pause_s=2.5, poll_s=4.0, hold_s=16.0)
"""A minute has to pass until a limit is there again, and it must be seen to be."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def result() -> Result:
    for kind in KINDS:
        try:
            server_program(kind)
        except BenchError as problem:
            missing(str(problem))
    return await run_async(KINDS, LOAD, together=True, say=lambda line: None)


def told(findings: list[Finding]) -> list[str]:
    return [f"{name(one)}: {one.verdict}" for one in findings]


async def test_no_limit_of_any_kind_at_any_level_is_ever_passed(result: Result) -> None:
    assert len(result.honest) == len(KINDS) * 5 * (1 + 2 + 3 + 4)
    assert not told([one for one in result.honest if one.verdict.over])


async def test_nothing_is_refused_that_a_limit_had_room_for_and_97_percent_are_used(result: Result) -> None:
    assert not told([one for one in result.honest if one.verdict.wrong])
    assert not told([one for one in result.honest if one.verdict.used < 0.97])


async def test_every_limit_was_asked_for_more_than_it_allows_and_minutes_came_again(result: Result) -> None:
    assert not told([one for one in result.honest if one.verdict.asked < 2 or not one.verdict.refused])
    by_minute = [one for one in result.honest if one.kind == "requests_per_minute"]
    assert not told([one for one in by_minute if one.verdict.admitted <= one.verdict.cap])


async def test_a_gateway_that_allows_a_fifth_more_is_found_out(result: Result) -> None:
    assert len(result.planted) == len(KINDS) * 5
    assert not told([one for one in result.planted if not one.verdict.over])


async def test_one_request_more_in_the_same_log_is_found(result: Result) -> None:
    for one in result.honest:
        if one.kind == "requests_per_minute" and one.verdict.fullest == one.verdict.cap:
            admitted = next(ask for ask in one.asks if ask.fate == "admitted")
            log = [*one.asks, msgspec.structs.replace(admitted)]
            assert audit_window(log, one.verdict.cap, *WINDOWS["minute"]).over == 1
