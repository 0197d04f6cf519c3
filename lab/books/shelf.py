"""Where the books stand: the ledger's rows, what the upstream wrote down, and what Redis still holds."""

import asyncio
import hashlib
import hmac
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
from sqlalchemy import select

from gateway.storage.tables import request_event
from lab.books.judge import Row
from lab.house.house import PEPPER, House
from lab.house.upstream import Truth


async def at_rest(house: House, within_s: float) -> bool:
    """Wait until nothing is held and the ledger has read everything; whether that came in time."""
    deadline = time.monotonic() + within_s
    while held(house) or unread(house):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.2)
    return True


async def rows_by_name(house: House, digests: Mapping[str, str]) -> dict[str, list[Row]]:
    """The ledger's rows by the name of their request, '' for those that have none in `digests` (`end_user` -> name)."""
    async with house.database.read() as connection:
        found = (await connection.execute(select(request_event))).mappings().all()
    rows: dict[str, list[Row]] = {}
    for row in found:
        name = digests.get(str(row["end_user"]), "")
        rows.setdefault(name, []).append(Row(**{field: row[field] for field in Row.__struct_fields__}))
    return rows


def end_user(organisation: str, name: str) -> str:
    """The digest under which the ledger knows a `user`, made once more from its description."""
    return hmac.new(PEPPER.encode(), f"{organisation}\0{name}".encode(), hashlib.sha256).hexdigest()[:24]


def read_truths(path: Path) -> dict[str, list[Truth]]:
    """What the upstream wrote down, by request."""
    truths: dict[str, list[Truth]] = {}
    for line in path.read_bytes().splitlines():
        truth = msgspec.json.decode(line, type=Truth)
        truths.setdefault(truth.id, []).append(truth)
    return truths


def held(house: House) -> list[str]:
    """Redis's keys that still hold a request: reservations, leases, slots."""
    with house.redis.client() as client:
        names = [name for kind in ("held", "lease", "slots:*") for name in client.scan_iter(f"cf:*:{kind}")]
        sizes = {name: client.hlen(name) if name.endswith(b":held") else client.zcard(name) for name in names}
    return sorted(f"{name.decode()} ({size})" for name, size in sizes.items() if size)


def unread(house: House) -> int:
    """Events that the ledger has not taken off the streams."""
    with house.redis.client() as client:
        return sum(client.xlen(name) for name in client.scan_iter("cf:*:events"))
