"""Where a request comes from, and whether a credential may be used from there. Pure.

`x-forwarded-for` is whatever its senders wrote. Each proxy appends the address that it saw; so the list is read from
the right, as long as the one who appended is a proxy of ours, and the first address that is none is the client's.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Networks = tuple[IPv4Network | IPv6Network, ...]
MAX_HOPS = 32
"""Of our own proxies in a row; a list that is longer names nobody."""


class BadNetwork(ValueError):
    """Not an address or a network (CIDR); the message says what to write instead."""


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """`10.0.0.0/8`, `2001:db8::/32`, or one address. Raises BadNetwork."""
    try:
        network = ip_network(text.strip())
    except ValueError as problem:
        raise BadNetwork(f"{text[:60]!r} is neither an address nor a network such as 10.0.0.0/8 ({problem})") from None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise BadNetwork(f"{text[:60]!r} is an IPv4 network in IPv6's clothes: write it as IPv4")
    return network


def parse_networks(text: str | None) -> Networks:
    """Networks between commas; none where there is no text. Raises BadNetwork."""
    return tuple(parse_network(part) for part in (text or "").split(",") if part.strip())


def parse_address(text: str) -> Address | None:
    """An address as proxies write it, a port behind it or not; None where it is none. IPv4 in IPv6's clothes
    (`::ffff:192.0.2.1`) is that IPv4 address, so that no list is passed by spelling."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def within(address: Address | None, networks: Networks) -> bool:
    """Whether the address lies in one of the networks; one that is not known lies in none."""
    return address is not None and any(address in network for network in networks)


def client_address(peer: str | None, forwarded: Iterable[bytes], trusted: Networks) -> Address | None:
    """The client's address: `peer` (who has connected) unless that is one of the `trusted` proxies; then the rightmost
    hop of the `x-forwarded-for` headers, in their order, that is none of them.

    None where it cannot be known: that hop is no address, or the list is longer than MAX_HOPS.
    """
    address = parse_address(peer) if peer is not None else None
    if not trusted or not within(address, trusted):
        return address
    hops = b",".join(forwarded).decode("latin-1").rsplit(",", MAX_HOPS)
    for number, hop in enumerate(reversed(hops)):
        if not hop.strip():
            continue
        if number == MAX_HOPS:
            return None
        address = parse_address(hop)
        if not within(address, trusted):
            return address
    return address
