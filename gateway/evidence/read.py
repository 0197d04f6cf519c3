"""Reading evidence: who reads it is written down first."""

import msgspec

from gateway.evidence.content import Content
from gateway.evidence.seal import Seal
from gateway.storage import evidence
from gateway.storage.database import Database
from gateway.telemetry import clock

MAX_READER = 128
MAX_REASON = 256


class BadReading(Exception):
    """A reader or a reason that cannot be written down; the text says what is wrong with it."""


class Opened(msgspec.Struct, frozen=True):
    """A request's evidence, readable."""

    request: str
    organisation: str
    principal: str
    at_ms: int
    expires_at_ms: int
    content: Content


def checked(name: str, text: str, most: int) -> str:
    """A text that a record can hold. Raises BadReading."""
    text = text.strip()
    if not text:
        raise BadReading(f"the {name} is empty")
    if len(text) > most:
        raise BadReading(f"the {name} has more than {most} characters")
    if not text.isprintable():
        raise BadReading(f"the {name} holds characters that cannot be printed")
    return text


async def read_evidence(database: Database, seal: Seal, request: str, *, reader: str, reason: str) -> Opened | None:
    """A request's evidence; None where there is none. That it was read is committed before it is decrypted; where that
    cannot be written, nothing is read. Raises BadReading, Unreadable, sqlalchemy.exc.SQLAlchemyError."""
    reader, reason = checked("reader", reader, MAX_READER), checked("reason", reason, MAX_REASON)
    now_ms = clock.now_ms()
    async with database.write() as connection:
        row = await evidence.find(connection, request, now_ms)
        if row is None:
            return None
        noted = {"request": row.request, "principal": row.principal, "reader": reader, "reason": reason}
        await evidence.note_reading(connection, **noted, at_ms=now_ms)
    content = seal.open(row.request, row.principal, row.body)
    return Opened(row.request, row.organisation, row.principal, row.at_ms, row.expires_at_ms, content)
