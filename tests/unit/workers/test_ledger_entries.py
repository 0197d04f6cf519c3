"""What the ledger takes for an event."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import event
from gateway.workers.entries import last_of, read_event
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
        (event.encode(make_event(1, v=2)), "of another version"),
    ],
)
def test_what_is_no_event_gets_a_reason_that_does_not_quote_it(body: bytes | None, reason: str) -> None:
    assert read_event(body) == reason


@given(st.binary())
def test_no_bytes_at_all_stop_the_reader(body: bytes) -> None:
    read_event(body)


def test_the_cursor_of_a_partition_is_the_highest_position_read() -> None:
    entries = [Entry(0, (5, 0), None), Entry(0, (5, 2), None), Entry(3, (1, 0), None), Entry(0, (4, 9), None)]
    assert last_of(entries) == {0: (5, 2), 3: (1, 0)}
