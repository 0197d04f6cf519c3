"""The client's address: believed from proxies of ours alone, read from the right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity.address import (
    MAX_HOPS,
    BadNetwork,
    client_address,
    parse_address,
    parse_network,
    parse_networks,
    within,
)

PROXIES = parse_networks("10.0.0.0/8, 2001:db8::/32")


def told(peer: str | None, *forwarded: str) -> str | None:
    address = client_address(peer, (text.encode("latin-1") for text in forwarded), PROXIES)
    return None if address is None else str(address)


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.7", [], "203.0.113.7"),
        ("203.0.113.7", ["198.51.100.1"], "203.0.113.7"),  # a stranger's word
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.7"], "203.0.113.7"),  # what the client wrote itself lies further left
        ("10.0.0.1", ["198.51.100.1, 203.0.113.7, 10.2.3.4"], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.1,10.9.9.9", "10.2.3.4"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.9, 10.0.0.8"], "10.0.0.9"),
        ("2001:db8::1", ["2001:db9::7"], "2001:db9::7"),
        ("::ffff:10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["203.0.113.7:4711"], "203.0.113.7"),
        ("10.0.0.1", ["[2001:db9::7]:4711"], "2001:db9::7"),
        ("10.0.0.1", ["::ffff:203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["198.51.100.1, unknown"], None),
        ("10.0.0.1", ["198.51.100.1, _hidden, 10.0.0.2"], None),
        ("10.0.0.1", ["203.0.113.7, "], "203.0.113.7"),
        (None, ["203.0.113.7"], None),
        ("testclient", [], None),
    ],
)
def test_the_rightmost_hop_that_is_no_proxy_of_ours_is_the_client(
    peer: str | None, forwarded: list[str], expected: str | None
) -> None:
    assert told(peer, *forwarded) == expected


def test_without_proxies_nobody_is_believed() -> None:
    assert str(client_address("127.0.0.1", [b"203.0.113.7"], ())) == "127.0.0.1"


def test_a_list_that_is_too_long_names_nobody() -> None:
    hops = ["10.0.0.2"] * MAX_HOPS
    assert told("10.0.0.1", ", ".join(["203.0.113.7", *hops[1:]])) == "203.0.113.7"
    assert told("10.0.0.1", ", ".join(["203.0.113.7", *hops])) is None
    assert told("10.0.0.1", "203.0.113.7," * 20_000 + "10.0.0.2") == "203.0.113.7"


@given(st.lists(st.text(alphabet=st.characters(max_codepoint=255), max_size=30), max_size=5), st.ip_addresses())
def test_nothing_that_a_client_writes_moves_its_address(forged: list[str], client: object) -> None:
    """Our proxy appends what it saw; all that stands left of that is the client's own."""
    if within(parse_address(str(client)), PROXIES):
        return
    seen = parse_address(str(client))
    assert told("10.0.0.1", *forged, str(client)) == str(seen)
    assert told("10.0.0.1", ",".join([*forged, str(client)])) == str(seen)


@given(st.text())
def test_no_text_makes_the_parser_fail(text: str) -> None:
    parse_address(text)


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
        ("203.0.113.7", "203.0.113.7", "203.0.113.8"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
        ("0.0.0.0/0", "1.2.3.4", "2001:db8::1"),
        ("203.0.113.0/24", "::ffff:203.0.113.7", "::1"),
    ],
)
def test_an_allow_list_holds_for_both_versions(network: str, inside: str, outside: str) -> None:
    networks = (parse_network(network),)
    assert within(parse_address(inside), networks)
    assert not within(parse_address(outside), networks)
    assert not within(None, networks)


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "example.com", "::ffff:10.0.0.0/104", "10.0.0"])
def test_what_is_no_network_is_refused_with_what_to_write_instead(text: str) -> None:
    with pytest.raises(BadNetwork, match=r"such as 10.0.0.0/8|write it as IPv4"):
        parse_network(text)
