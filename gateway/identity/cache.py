"""What a process remembers of keys, and what it may not. No I/O; not for several threads.

Every load and every drop has a number, in the order in which they began. An entry that comes of a load from before a
drop of its organisation, or from before the entry that is there, is not remembered: nothing dropped comes back.
"""

from collections import OrderedDict

import msgspec

from gateway.core.caller import Caller
from gateway.identity.address import Networks


class Secret(msgspec.Struct, frozen=True):
    """One of a key's secrets: the token's digest, the fingerprint of the pepper that it was made with (None: from
    before they were told apart), and the millisecond at which an overlap ends it (None: none)."""

    digest: bytes
    pepper: str | None = None
    until_ms: int | None = None


class Known(msgspec.Struct, frozen=True):
    """A credential as a process remembers it. `secrets`: a key's, the newest first; none for a JSON Web Token, which
    its signature opens. `epoch`: its organisation's, read before the load began; None where it was not. `loaded_at`:
    the monotonic second at which the load began. `networks`: where it may be used from; None: anywhere."""

    caller: Caller
    secrets: tuple[Secret, ...]
    expires_at_ms: int | None
    epoch: int | None
    loaded_at: float
    networks: Networks | None = None


class Seen(msgspec.Struct):
    """An organisation: the epoch last heard of (None: none yet), when that was, and its keys that are remembered."""

    epoch: int | None
    number: int
    keys: set[str]


class KeyCache:
    """At most `size` credentials, the oldest loaded leaving first, and at most `size` organisations."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._number = 0
        self._entries: OrderedDict[str, tuple[Known, int]] = OrderedDict()
        self._seen: OrderedDict[str, Seen] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def organisations(self) -> int:
        """How many organisations are indexed."""
        return len(self._seen)

    def get(self, key_id: str) -> Known | None:
        """Whatever is remembered of the key, however old, for whatever token: the caller compares."""
        held = self._entries.get(key_id)
        return None if held is None else held[0]

    def begin(self) -> int:
        """The number of a load that begins now; `put` takes it with the result."""
        self._number += 1
        return self._number

    def drop(self, organisation: str, epoch: int) -> None:
        """The organisation's epoch is now known to be this: forget its keys that were loaded under another."""
        self._learn(organisation, epoch, self.begin())

    def put(self, key_id: str, known: Known, number: int) -> Known:
        """Remember what the load `number` found, if nothing newer is known; returns it, stamped where it may be.

        Without a stamp of its own it takes the epoch that its organisation was known to have when the load began.
        """
        organisation = known.caller.organisation
        if known.epoch is not None:
            self._learn(organisation, known.epoch, number)
        seen = self._seen.get(organisation)
        if known.epoch is None and seen is not None and seen.epoch is not None and seen.number < number:
            known = msgspec.structs.replace(known, epoch=seen.epoch)
        if seen is not None and seen.number > number and seen.epoch != known.epoch:
            return known  # from before a drop
        held = self._entries.get(key_id)
        if held is not None and held[1] > number:
            return known
        self._remember(key_id, known, number)
        return known

    def exchange(self, key_id: str, held: Known, other: Known) -> None:
        """Put `other`, which says the same as `held` in another form, in its place, if it is still there."""
        entry = self._entries.get(key_id)
        if entry is not None and entry[0] is held:
            self._entries[key_id] = (other, entry[1])

    def _learn(self, organisation: str, epoch: int, number: int) -> None:
        seen = self._seen.get(organisation)
        if seen is None:
            self._see(organisation, Seen(epoch, number, set()))
            return
        if number < seen.number:
            return
        for key_id in [key_id for key_id in seen.keys if self._entries[key_id][0].epoch != epoch]:
            self._forget(key_id)
        seen.epoch, seen.number = epoch, number

    def _see(self, organisation: str, seen: Seen) -> Seen:
        if len(self._seen) >= self._size:
            _, oldest = self._seen.popitem(last=False)
            for key_id in oldest.keys:
                del self._entries[key_id]  # else a drop could not find them
        self._seen[organisation] = seen
        return seen

    def _remember(self, key_id: str, known: Known, number: int) -> None:
        if key_id in self._entries:
            self._forget(key_id)
        elif len(self._entries) >= self._size:
            self._forget(next(iter(self._entries)))
        organisation = known.caller.organisation
        seen = self._seen.get(organisation) or self._see(organisation, Seen(None, 0, set()))
        seen.keys.add(key_id)
        self._entries[key_id] = (known, number)

    def _forget(self, key_id: str) -> None:
        known, _ = self._entries.pop(key_id)
        self._seen[known.caller.organisation].keys.discard(key_id)
