"""What the ledger takes for an event."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import event
from gateway.core.facts import ClientFacts, Facts, Roll
from gateway.core.record import Record
from gateway.storage.rows import event_of, row_of
from gateway.workers.entries import Batch, last_of, read_event
from gateway.workers.streams import Entry
from tests.support.events import make_event


def test_an_event_is_read_as_it_was_written() -> None:
    written = make_event(1, ttft_ms=3, finish_reason="stop")
    assert read_event(event.encode(written)) == written


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "no field e"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"more": ' + b"[" * 100_000, "not JSON"),
        (b"[]", "not a RequestEvent"),
        (b"{}", "not a RequestEvent"),
        (msgspec.json.encode({**msgspec.structs.asdict(make_event(1)), "outcome": "secret"}), "not a RequestEvent"),
        (event.encode(make_event(1, model="a\0b")), "a value out of bounds"),
        (event.encode(make_event(1, model="m" * 257)), "a value out of bounds"),
        (event.encode(make_event(1, prompt_tokens=2**63)), "a value out of bounds"),
        (event.encode(make_event(1, cost=10**12 + 1)), "a value out of bounds"),
        (event.encode(make_event(1, completion_tokens=-1)), "a value out of bounds"),
        (event.encode(make_event(1, at_ms=2**60)), "a value out of bounds"),
        (event.encode(make_event(1, at_ms=-1)), "a value out of bounds"),
        (event.encode(make_event(1, beyond_cost=-1)), "a value out of bounds"),
        (event.encode(make_event(1, shadow="s" * 257)), "a value out of bounds"),
        (event.encode(make_event(1, flags=("a\0b",))), "a value out of bounds"),
        (event.encode(make_event(1, matched=("m",) * 1001)), "a value out of bounds"),
        (event.encode(make_event(1, v=2)), "of another version"),
    ],
)
def test_what_is_no_event_gets_a_reason_that_does_not_quote_it(body: bytes | None, reason: str) -> None:
    assert read_event(body) == reason


def record(user_agent: str) -> Record:
    client = ClientFacts(user_agent=user_agent)
    return Record(facts=Facts(client=client), roll=Roll(1, 2), ruleset="v1", answers={"p1": False})


def test_a_record_is_taken_whole_and_an_event_whose_record_is_too_long_is_taken_without_it() -> None:
    written = make_event(1, contained=True, matched=("cat",), record=record(user_agent="a" * 1000))
    assert read_event(event.encode(written)) == written
    assert event_of(row_of(written)) == written
    long = make_event(1, contained=True, matched=("cat",), record=record(user_agent="a" * 20_000))
    assert read_event(event.encode(long)) == msgspec.structs.replace(long, record=None)
    batch = Batch([Entry(0, (1, 0), event.encode(long)), Entry(0, (2, 0), event.encode(written))])
    assert (len(batch.rows), batch.records_dropped) == (2, 1)


def test_a_column_holds_what_json_can_say_and_no_database_refuses() -> None:
    written = make_event(1, record=record(user_agent="a\0b\u2028"))
    row = row_of(written)
    assert "\0" not in row["record"]
    assert {type(value) for value in row.values()} <= {str, int, bool, type(None)}
    assert event_of(row) == written


@given(st.binary())
def test_no_bytes_at_all_stop_the_reader(body: bytes) -> None:
    read_event(body)


def test_the_cursor_of_a_partition_is_the_highest_position_read() -> None:
    entries = [Entry(0, (5, 0), None), Entry(0, (5, 2), None), Entry(3, (1, 0), None), Entry(0, (4, 9), None)]
    assert last_of(entries) == {0: (5, 2), 3: (1, 0)}
