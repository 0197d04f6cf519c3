"""Whose answer is this text from?"""

import asyncio

import msgspec

from gateway.canary.search import MAX_TEXT, CanaryIndex
from gateway.canary.words import PLACES
from gateway.storage import canaries
from gateway.storage.canaries import Contained, Given
from gateway.storage.database import Database

LATEST = 5
SURENESS = ((0.9999, "almost certain"), (0.99, "very likely"), (0.0, "likely"))


class BadText(Exception):
    """A text that cannot be searched; the text says what to do."""


class Found(msgspec.Struct, frozen=True):
    """A principal whose phrase is in the text. `sure`: 0 to 1, in words `sureness`; `at`: offset in characters,
    `excerpt` what stands there; `changed`: the share of the phrase's letters that differ; `first_at_ms`, `last_at_ms`:
    when it was given the phrase; `requests`: its latest contained ones."""

    principal: str
    name: str | None
    organisation: str | None
    project: str | None
    sure: float
    sureness: str
    at: int
    excerpt: str
    changed: float
    first_at_ms: int
    last_at_ms: int
    requests: list[Contained]


def checked(text: str) -> str:
    """A text that can be searched. Raises BadText."""
    if not text.strip():
        raise BadText("there is no text in it")
    if len(text) > MAX_TEXT:
        raise BadText(f"the text has more than {MAX_TEXT:,} characters: give it in parts that overlap")
    return text


async def trace(database: Database, text: str) -> list[Found]:
    """The principals whose phrases are in the text, the surest first; mostly one or none. Raises BadText,
    sqlalchemy.exc.SQLAlchemyError."""
    checked(text)
    async with database.read() as connection:
        stored = [given async for given in canaries.every(connection)]
    found = await asyncio.to_thread(search, stored, text)
    async with database.read() as connection:
        return [
            Found(
                principal=given.principal,
                **msgspec.structs.asdict(await canaries.whose(connection, given.principal)),
                sure=sure,
                sureness=next(words for least, words in SURENESS if sure >= least),
                at=at,
                excerpt=excerpt,
                changed=changed,
                first_at_ms=given.first_at_ms,
                last_at_ms=given.last_at_ms,
                requests=await canaries.contained_requests(connection, given.principal, LATEST),
            )
            for given, sure, at, excerpt, changed in found
        ]


def search(stored: list[Given], text: str) -> list[tuple[Given, float, int, str, float]]:
    """The stored phrases that are in the text, each with how sure, where, what stands there and the share changed."""
    whole = {str(number): given.words for number, given in enumerate(stored) if len(given.words) == len(PLACES)}
    index = CanaryIndex(whole)
    return [(stored[int(found.principal)], *found[1:]) for found in index.find(text)]
