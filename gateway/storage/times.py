"""How long requests took, from their events."""

from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.storage.tables import request_event

MOST = 5000


class Served(NamedTuple):
    """A completed request of one choice: milliseconds to its first token and to its end, and its output tokens."""

    first_ms: int
    duration_ms: int
    tokens: int


async def served_since(connection: AsyncConnection, model: str, since_ms: int) -> list[Served]:
    """The latest of a model, at most MOST; contained ones left out, whose times are not their own."""
    event = request_event.c
    query = (
        select(event.ttft_ms, event.duration_ms, event.completion_tokens)
        .where(event.at_ms >= since_ms, event.model == model, event.outcome == "completed", event.choices == 1)
        .where(event.ttft_ms.is_not(None), event.contained.is_(False), event.completion_tokens > 0)
        .order_by(event.at_ms.desc())
        .limit(MOST)
    )
    return [Served(*row) for row in await connection.execute(query)]
