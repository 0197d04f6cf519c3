"""Ids, events and errors."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import errors, event
from gateway.core.ids import ALPHABET, base62, checksum, make_id, partition_of, request_id
from tests.support.events import make_event


@given(st.integers(0, 2**200))
def test_base_62_is_the_number_again(number: int) -> None:
    text = base62(number, 1)
    value = 0
    for letter in text:
        value = value * 62 + ALPHABET.index(letter)
    assert value == number


@given(st.binary(min_size=12, max_size=12), st.integers(0, 2**48 - 1))
def test_ids_have_one_length_and_sort_by_time(entropy: bytes, now_ms: int) -> None:
    assert len(make_id("org", entropy)) == len("org_") + 17
    assert len(request_id(now_ms, entropy)) == len("req_") + 32
    assert now_ms == 0 or request_id(now_ms - 1, b"\xff" * 10) < request_id(now_ms, b"\0" * 10)
    assert len(checksum(entropy.hex())) == 6


@given(st.text(), st.integers(1, 4096))
def test_a_partition_is_one_of_them_and_always_the_same(organisation: str, partitions: int) -> None:
    assert 0 <= partition_of(organisation, partitions) < partitions
    assert partition_of(organisation, partitions) == partition_of(organisation, partitions)


def test_an_event_survives_its_way_through_redis() -> None:
    made = make_event(7, outcome="cancelled", finish_reason=None, ttft_ms=0, end_user="x")
    assert event.decode(event.encode(made)) == made


def test_an_event_of_a_later_version_is_read_by_this_one() -> None:
    later = msgspec.json.decode(event.encode(make_event(7))) | {"v": 2, "news": [1]}
    assert event.decode(msgspec.json.encode(later)).request == make_event(7).request


@pytest.mark.parametrize("kind", [error for error in vars(errors).values() if isinstance(error, type)])
def test_every_error_tells_four_keys_and_keeps_its_detail_to_itself(kind: type[errors.ApiError]) -> None:
    told = kind("public", param="p", detail="planted").body()
    assert told == {"error": {"message": "public", "type": kind.type, "param": "p", "code": kind.code}}
    assert 400 <= kind.status < 600
