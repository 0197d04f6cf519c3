"""Where Redis is, and the names of its keys."""

import pytest

from gateway.quota import keys
from gateway.quota.address import Address


@pytest.mark.parametrize(
    ("url", "address", "greeting"),
    [
        ("redis://h", Address(None, "h", 6379, False, None, None, 0), [("PING",)]),
        (
            "rediss://u:p%40@h:1/2",
            Address(None, "h", 1, True, "u", "p@", 2),
            [("AUTH", "u", "p@"), ("SELECT", 2), ("PING",)],
        ),
        ("redis://:p@[::1]:1", Address(None, "::1", 1, False, None, "p", 0), [("AUTH", "p"), ("PING",)]),
        ("unix:///a%20b/r.sock", Address("/a b/r.sock", "", 0, False, None, None, 0), [("PING",)]),
        ("unix:///r.sock?db=3", Address("/r.sock", "", 0, False, None, None, 3), [("SELECT", 3), ("PING",)]),
    ],
)  # fmt: skip
def test_an_address_is_read_from_its_url(url: str, address: Address, greeting: list[tuple[object, ...]]) -> None:
    assert Address.parse(url) == address
    assert Address.parse(url).greeting() == greeting


@pytest.mark.parametrize("url", ["http://h", "h:6379", "", "redis://", "redis://h/x", "redis://h:port"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(url)


def test_all_keys_of_a_partition_are_in_one_slot_of_a_cluster() -> None:
    names = [keys.clock_key(3), keys.held_key(3), keys.lease_key(3), keys.events_key(3), keys.epoch_key(3, "{x}"),
             keys.limit_key(3, "{y}", "z")]  # fmt: skip
    assert {name[name.index("{") : name.index("}") + 1] for name in names} == {"{p3}"}
