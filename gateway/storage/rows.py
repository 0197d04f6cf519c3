"""Events as rows of request_event, and back: what a column cannot hold stands there as JSON."""

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.core.event import RequestEvent
from gateway.core.record import Record

LISTS = ("matched", "logged", "flags")

_encode = msgspec.json.Encoder().encode
_names = msgspec.json.Decoder(tuple[str, ...]).decode
_record = msgspec.json.Decoder(Record).decode


def row_of(event: RequestEvent) -> dict[str, Any]:
    """The event by column."""
    row = {name: getattr(event, name) for name in RequestEvent.__struct_fields__}
    for name in LISTS:
        row[name] = _encode(row[name]).decode() if row[name] else "[]"
    if event.record is not None:
        row["record"] = _encode(event.record).decode()
    return row


def event_of(row: Mapping[str, Any]) -> RequestEvent:
    """The event that was written so. Raises msgspec.MsgspecError where the record is of a later version."""
    lists = {name: _names(row[name]) if row[name] != "[]" else () for name in LISTS}
    record = None if row["record"] is None else _record(row["record"])
    return RequestEvent(**{**row, **lists, "record": record})
