"""Events from a file into the books: what was exported comes back, or comes to another database."""

from collections.abc import Iterable, Iterator

import msgspec

from gateway.core.event import VERSION, RequestEvent
from gateway.storage import ledger
from gateway.storage.database import Database
from gateway.storage.rows import row_of
from gateway.workers.entries import MAX_BODY, OTHER_VERSION, read_event

BATCH = 1000


class Imported(msgspec.Struct):
    """What came of the lines: new to the books (or in place of a reclaimer's estimate), there already, or so old that
    they may have been counted before they were pruned."""

    booked: int = 0
    known: int = 0
    pruned: int = 0


class BadLine(Exception):
    """A line that cannot be imported; the message is a sentence. `before` says what became of the lines before it."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.before = Imported()


async def import_events(database: Database, lines: Iterable[bytes]) -> Imported:
    """Book the events, one a line, in batches; what is there already is left alone, so any part may be imported again.
    Raises BadLine, and sqlalchemy.exc.SQLAlchemyError, after the lines before it are booked."""
    done = Imported()
    batch: list[RequestEvent] = []
    try:
        for event in events_in(lines):
            batch.append(event)
            if len(batch) == BATCH:
                await book(database, batch, done)
                batch = []
    except BadLine as bad:
        await book(database, batch, done)
        bad.before = done
        raise
    await book(database, batch, done)
    return done


def events_in(lines: Iterable[bytes]) -> Iterator[RequestEvent]:
    """The events; empty lines are passed over. Raises BadLine."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = read_event(line) if len(line) <= MAX_BODY else f"longer than {MAX_BODY} bytes"
        if found == OTHER_VERSION:
            raise BadLine(f"Line {number} is an event of another version than {VERSION}, which this Catflap reads")
        if isinstance(found, str):
            raise BadLine(f"Line {number} cannot be imported: {found} (see `catflap events schema`)")
        yield found


async def book(database: Database, events: list[RequestEvent], done: Imported) -> None:
    async with database.write() as connection:
        booked = await ledger.book(connection, [row_of(event) for event in events])
    done.booked += booked.changed
    done.pruned += len(booked.late)
    done.known += len(events) - booked.changed - len(booked.late)
