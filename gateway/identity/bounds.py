"""What a key is held to beyond its plan, checked where it comes in and read where it comes out. Pure."""

from collections.abc import Sequence

import msgspec

from gateway.core.caller import SCOPES
from gateway.identity.address import BadNetwork, parse_network
from gateway.identity.names import BadName, check_name

MAX_ENTRIES = 64


class BadBound(ValueError):
    """Something that a key cannot be held to; the message says what to write instead."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Endpoints, models (public names), networks (CIDR) that a key is held to; None: no bound. Tags say what it is
    for and bind nothing."""

    scopes: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    addresses: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None


def check_bounds(
    *,
    scopes: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    addresses: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
) -> Bounds:
    """The bounds, each in its one spelling, nothing twice. Raises BadBound."""
    for name, given in {"scopes": scopes, "models": models, "addresses": addresses, "tags": tags}.items():
        if given is not None and not 1 <= len(given) <= MAX_ENTRIES:
            raise BadBound(f"there must be 1 to {MAX_ENTRIES} {name}, or none named at all")
    for scope in scopes or ():
        if scope not in SCOPES:
            raise BadBound(f"{scope[:60]!r} is no scope: there are {', '.join(SCOPES)}")
    try:
        return Bounds(
            scopes=unique(scopes),
            models=unique(models and [check_name("model's name", model) for model in models]),
            addresses=unique(addresses and [str(parse_network(address)) for address in addresses]),
            tags=unique(tags and [check_name("tag", tag) for tag in tags]),
        )
    except (BadName, BadNetwork) as problem:
        raise BadBound(str(problem)) from None


def unique(given: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(dict.fromkeys(given))


def to_column(given: tuple[str, ...] | None) -> str | None:
    """As the database keeps it."""
    return None if given is None else msgspec.json.encode(given).decode()


def from_column(text: str | None) -> tuple[str, ...] | None:
    """As the database kept it."""
    return None if text is None else msgspec.json.decode(text, type=tuple[str, ...])
