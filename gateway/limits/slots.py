"""The rules of a limit on concurrency, as a model in plain Python: the oracle that the Lua scripts are tested against.

A slot belongs to a running request for as long as its lease lasts; a dead gateway's slots come free by themselves.
"""

from dataclasses import dataclass, field

SLOT_WAIT_MS = 100
"""When what runs now ends nobody knows; whoever asks again a little later loses little."""


@dataclass
class Slots:
    """At most `cap` requests at a time."""

    cap: int
    leases: dict[str, int] = field(default_factory=dict)

    def slide(self, now: int) -> None:
        """Forget whose lease has ended."""
        self.leases = {request: end for request, end in self.leases.items() if end > now}

    def take(self, request: str, lease_ends: int) -> None:
        """The request runs, or goes on running, until its lease ends."""
        self.leases[request] = lease_ends

    def free(self, request: str) -> None:
        """The request has ended."""
        self.leases.pop(request, None)
