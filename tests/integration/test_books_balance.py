"""The books balance: mixed requests while gateways are killed at any point (also between the last byte of an answer and
its settlement), Redis dies and loses its last second, PostgreSQL is stopped, ledger and reclaimer are killed; then
every row of the ledger is held against the log of the client that asked for it, to the token. What the ledger must hold
for each way in which a request ends stands in lab/books/judge.py. `catflap lab books` is the long form."""

from collections import Counter

import pytest
import pytest_asyncio

from lab.books.run import KEYS, Books, run_async
from lab.house.postgres import find_postgres
from tests.support.missing import missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]

REQUESTS, DEATHS = 1200, 15


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def books() -> Books:
    if find_postgres() is None:
        missing("PostgreSQL (initdb, pg_ctl)")
    return await run_async(requests=REQUESTS, deaths=DEATHS, redis="7.0", seed=1, say=lambda line: None)


async def test_the_ledger_says_of_every_request_what_its_client_says(books: Books) -> None:
    assert len(books.judged) == REQUESTS + KEYS
    assert not [one.problem for one in books.judged if one.problem]
    assert books.strangers == 0


async def test_what_killed_gateways_had_in_flight_is_all_that_is_not_exact_and_never_above_its_bound(
    books: Books,
) -> None:
    assert all(one.charged <= one.generated for one in books.in_flight)
    assert {one.how for one in books.in_flight} <= {"broken", "left"}


async def test_no_reservation_no_lease_and_no_slot_is_left(books: Books) -> None:
    assert books.left_over == []


async def test_roll_ups_spend_and_budgets_are_the_sums_of_the_rows(books: Books) -> None:
    assert books.differences == []


async def test_everything_that_can_die_did_and_every_kind_of_end_was_met(books: Books) -> None:
    died = [
        "admitted",
        "settled",
        "told",
        "a gateway is killed",
        "Redis dies and loses a second",
        "the ledger is killed",
    ]
    assert all(books.deaths[what] for what in (*died, "the database is stopped", "the reclaimer is killed"))
    ends = Counter(one.how for one in books.judged)
    assert all(ends[how] for how in ("told", "error", "left", "absent", "away", "broken")), ends
