"""Stream entries, as the ledger takes them: events that can be booked, and what cannot, with the reason."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, get_type_hints

import msgspec

from gateway.core import event
from gateway.core.event import Outcome, RequestEvent
from gateway.storage.budgets import Account, accounts_of
from gateway.storage.ledger import Position
from gateway.storage.rows import row_of
from gateway.telemetry import clock
from gateway.workers.streams import START, Entry

MAX_TEXT = 256  # the columns' length
MAX_COUNT = 10**12  # tokens, milliseconds, thousandths: a million such events still add up in 64 bits
MAX_TIME = 253_402_300_799_999  # the last millisecond of the year 9999
MAX_BODY = 65_536
MAX_RECORD = 16_384  # bytes of a record in JSON; an event with a longer one is booked without it, and counted
MAX_NAMES = 1000  # in a list: policies of a ruleset
LATE = "older than what has been pruned"
OUT_OF_BOUNDS = "a value out of bounds"
OTHER_VERSION = "of another version"


class Batch:
    """A batch of entries, read once."""

    def __init__(self, entries: Sequence[Entry], reason: str | None = None) -> None:
        """`reason` makes rejects of them all. `records_dropped`: events taken without their record, which was too
        long."""
        self.rows: list[dict[str, Any]] = []
        self.rejects: list[dict[str, Any]] = []
        self.records_dropped = 0
        self._entries: dict[str, list[Entry]] = {}
        self._entries_read = entries
        for entry in entries:
            read = reason or read_whole(entry.body)
            if isinstance(read, str):
                self.rejects.append(reject_of(entry, read))
            else:
                taken = bounded(read, len(entry.body or b""))
                self.records_dropped += taken is not read
                self.rows.append(row_of(taken))
                self._entries.setdefault(read.request, []).append(entry)

    def reject(self, requests: Iterable[str], reason: str) -> list[dict[str, Any]]:
        """The rejects that the entries of these requests make."""
        return [reject_of(entry, reason) for request in requests for entry in self._entries[request]]

    def cursors(self) -> dict[int, Position]:
        """How far each of its partitions is read by it."""
        return last_of(self._entries_read)

    def accounts(self) -> Mapping[int, set[Account]]:
        """Partition -> the accounts that its events are charged to. Events that cost nothing have them too: what such a
        request had reserved has left its budgets, which may stand below what is booked since Redis lost something."""
        found: dict[int, set[Account]] = {}
        for row in self.rows:
            partition = self._entries[row["request"]][0].partition
            found.setdefault(partition, set()).update(accounts_of(row))
        return found


def read_event(body: bytes | None) -> RequestEvent | str:
    """The event, without its record where that is too long; or why it is none."""
    found = read_whole(body)
    return found if isinstance(found, str) else bounded(found, len(body or b""))


def read_whole(body: bytes | None) -> RequestEvent | str:
    """The event, or why it is none: one of a few phrases, never its content."""
    if body is None:
        return "no field e"
    try:
        found = event.decode(body)
    except msgspec.ValidationError:
        return OTHER_VERSION if version_of(body) != event.VERSION else "not a RequestEvent"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "not JSON"
    if found.v != event.VERSION:
        return OTHER_VERSION
    if not (0 <= found.at_ms <= MAX_TIME and storable(found, b"\\u0000" in body)):
        return OUT_OF_BOUNDS
    return found


def bounded(found: RequestEvent, size: int) -> RequestEvent:
    """The event, which had `size` bytes, without its record where that is too long."""
    if size > MAX_RECORD and found.record is not None and len(msgspec.json.encode(found.record)) > MAX_RECORD:
        return msgspec.structs.replace(found, record=None)
    return found


class Versioned(msgspec.Struct):
    """What events of all versions have."""

    v: int = event.VERSION


def version_of(body: bytes) -> int:
    """The version of what may be an event of ours or of a later Catflap; ours where that cannot be told."""
    try:
        return msgspec.json.decode(body, type=Versioned).v
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return event.VERSION


def _of_kind(*kinds: Any) -> Callable[[RequestEvent], tuple[Any, ...]]:
    """Reads all fields of these types, but the instant and the record, which is bounded as a whole."""
    hints = get_type_hints(RequestEvent)
    names = [name for name, hint in hints.items() if hint in kinds and name not in ("at_ms", "record")]
    return attrgetter(*names)


_counts = _of_kind(int, int | None)
_texts = _of_kind(str, str | None, Outcome)
_lists = _of_kind(tuple[str, ...])


def storable(found: RequestEvent, has_nul: bool) -> bool:
    """Whether both databases take its values, and their sums too. `has_nul`: JSON spells a character 0 somewhere in it,
    which PostgreSQL takes in no text."""
    counts = [count for count in _counts(found) if count is not None]
    texts = [text for text in _texts(found) if text is not None]
    for names in _lists(found):
        if len(names) > MAX_NAMES:
            return False
        texts += names
    if has_nul and any("\0" in text for text in texts):
        return False
    return min(counts) >= 0 and max(counts) <= MAX_COUNT and max(map(len, texts)) <= MAX_TEXT


def reject_of(entry: Entry, reason: str) -> dict[str, Any]:
    return {
        "partition": entry.partition,
        "entry": "{}-{}".format(*entry.position),
        "reason": reason,
        "body": (entry.body or b"")[:MAX_BODY],
        "rejected_at_ms": clock.now_ms(),
    }


def last_of(entries: Sequence[Entry]) -> dict[int, Position]:
    """The highest position of each partition that has one among these."""
    last: dict[int, Position] = {}
    for entry in entries:
        last[entry.partition] = max(entry.position, last.get(entry.partition, START))
    return last
