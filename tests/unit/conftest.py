"""Unit tests touch no network: connecting a socket is an error. asyncio's socket pair never connects, so it works."""

import socket
from typing import NoReturn

import pytest


class SocketsAreOff(AssertionError):
    """A unit test tried to connect; what needs a server belongs in tests/integration."""


@pytest.fixture(autouse=True)
def sockets_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: socket.socket, address: object) -> NoReturn:
        raise SocketsAreOff(f"a unit test connects to {address!r}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
