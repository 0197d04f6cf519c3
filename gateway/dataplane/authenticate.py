"""The pipeline's way in: whose request this is, and whether it may have what it asks for."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from starlette.types import Scope

from gateway.core.caller import Caller
from gateway.core.errors import AddressNotAllowed, InsufficientScope
from gateway.dataplane.kinds import unknown_model
from gateway.dataplane.services import Services
from gateway.fleet.models import Served
from gateway.identity.address import Networks, client_address, within
from gateway.identity.bearer import bearer_token
from gateway.identity.directory import Known


class Asking(Protocol):
    """What is looked at of a request: an Exchange, or a Source."""

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """Names in lower case, and values."""

    @property
    def peer(self) -> str | None:
        """The address that has connected."""


class Source:
    """Headers and peer of a request that has no Exchange."""

    def __init__(self, headers: Sequence[tuple[bytes, bytes]], peer: str | None) -> None:
        self.headers = headers
        self.peer = peer

    @classmethod
    def of(cls, scope: Scope) -> "Source":
        """Of an ASGI scope."""
        return cls(scope["headers"], scope["client"][0] if scope.get("client") else None)


async def authenticate(services: Services, asking: Asking, epoch: int | None = None) -> Known:
    """Whose request this is, by its headers and its address alone; a credential that is remembered takes no I/O. With
    the `epoch` that admission has returned, as of that epoch.

    Raises Unauthenticated (401), AddressNotAllowed (403), Unavailable (503: it cannot be known).
    """
    token = bearer_token(_header(asking, b"authorization"))
    if epoch is None:
        known = services.directory.known(token) or await services.directory.resolve(token)
    else:
        known = await services.directory.refresh(token, epoch)
    if known.networks is not None:
        _check_address(known.networks, asking, services.trusted_proxies)
    return known


def authorise(caller: Caller, endpoint: str, model: str | None = None) -> None:
    """Raises InsufficientScope (403) where the credential is not for this endpoint, ModelNotFound (404, as for a model
    that does not exist) where it is not for the model of this public name."""
    if caller.scopes is not None and endpoint not in caller.scopes:
        raise InsufficientScope(
            f"This credential is not for {endpoint}: it is for {', '.join(sorted(caller.scopes))}. Ask whoever runs "
            "this gateway for another one."
        )
    if model is not None and caller.models is not None and model not in caller.models:
        raise unknown_model(model)


def models_for(caller: Caller, models: Mapping[str, Served]) -> Mapping[str, Served]:
    """The models that the caller may use, by public name; the others are not there at all, to no question."""
    if caller.models is None:
        return models
    return {name: model for name, model in models.items() if name in caller.models}


def _header(asking: Asking, name: bytes) -> bytes | None:
    for key, value in asking.headers:
        if key == name:
            return value
    return None


def _check_address(allowed: Networks, asking: Asking, trusted: Networks) -> None:
    forwarded = (value for name, value in asking.headers if name == b"x-forwarded-for")
    address = client_address(asking.peer, forwarded, trusted)
    if not within(address, allowed):
        raise AddressNotAllowed(
            "This credential may not be used from your address. Ask whoever runs this gateway.",
            detail="address not allowed" if address else "address not known",
        )
