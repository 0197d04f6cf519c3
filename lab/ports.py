"""Ports for programs that must be told a number."""

import random
import socket

BELOW_CLIENTS = (20_000, 32_000)


def free_ports(number: int, bus: int = 0) -> list[int]:
    """Ports that were free a moment ago, below those that the kernel gives to clients: one of them could be lent to any
    connection on this machine before our program takes it. `bus`: the port so much higher is free and below them too.
    """
    found: list[int] = []
    first, end = BELOW_CLIENTS
    while len(found) < number:
        port = random.randrange(first, end - bus)
        if port not in found and is_free(port) and (not bus or is_free(port + bus)):
            found.append(port)
    return found


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
