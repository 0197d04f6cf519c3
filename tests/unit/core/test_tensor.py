"""Strings in raw data: what goes in comes out, and nothing is read past its end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.tensor import Tensor, pack_strings, unpack_strings


@given(st.lists(st.binary(max_size=20), max_size=10))
def test_strings_come_out_as_they_went_in(strings: list[bytes]) -> None:
    assert unpack_strings(pack_strings(strings), len(strings)) == strings


@given(data=st.binary(max_size=60), count=st.integers(0, 10))
def test_any_bytes_are_read_whole_or_refused(data: bytes, count: int) -> None:
    try:
        strings = unpack_strings(data, count)
    except ValueError:
        return
    assert pack_strings(strings) == data


def test_a_length_that_points_past_the_end_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter than it says"):
        unpack_strings(b"\xff\xff\xff\xffx", 1)


def test_elements_are_the_product_of_the_shape() -> None:
    assert Tensor("a", "INT8", (2, 3), bytes(6)).elements == 6
    assert Tensor("a", "INT8", (), bytes(1)).elements == 1
