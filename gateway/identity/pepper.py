"""Peppers: the one under which digests are made, the one before it, and the way from there to here.

While both live (`CATFLAP_PEPPER_OLD`) a token is tried under both. One that opens under the old pepper shows the whole
token, which is all that a digest under the new one takes: the key moves over when it is used, off the request's way.
"""

import asyncio
import hmac
from collections.abc import Callable

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from gateway.identity.cache import Known, Secret
from gateway.identity.keys import digest
from gateway.storage import directory
from gateway.storage.database import Database

MAX_WAITING = 1000  # moves; one that finds no place is asked for again at the key's next load
BATCH = 100
PAUSE_S = 1.0


def fingerprint(pepper: bytes) -> str:
    """16 hex digits that tell peppers apart and give none away."""
    return hmac.digest(pepper, b"catflap pepper", "sha256").hex()[:16]


def derived(pepper: bytes, purpose: str) -> bytes:
    """32 bytes for one purpose, from which neither the pepper nor those for another can be told."""
    return hmac.digest(pepper, b"catflap " + purpose.encode(), "sha256")


class Move(msgspec.Struct, frozen=True):
    """A secret whose digest is to be written under the current pepper."""

    key: str
    was: bytes
    now: bytes


class Peppers:
    """The current pepper and, during a rotation, the old one. `moves` takes what has to be written."""

    def __init__(self, current: bytes, old: bytes | None = None) -> None:
        self.current = current
        self.old = old
        self.fingerprint = fingerprint(current)
        self.moves = Moves(self.fingerprint)

    def opens(self, known: Known, token: str, now_ms: Callable[[], int]) -> bool:
        """Whether the token is one of the key's living secrets under the current pepper: the hot path's question, one
        digest and mostly one comparison."""
        shown = digest(self.current, token)
        for secret in known.secrets:
            if hmac.compare_digest(shown, secret.digest):
                return secret.until_ms is None or now_ms() < secret.until_ms
        return False

    def opened(self, known: Known, token: str, now_ms: int) -> Known | None:
        """The entry, with the secret that the token shows moved to the current pepper; None where it shows none."""
        shown = digest(self.current, token)
        before = None if self.old is None else digest(self.old, token)
        for place, secret in enumerate(known.secrets):
            if secret.until_ms is not None and now_ms >= secret.until_ms:
                continue
            now = hmac.compare_digest(shown, secret.digest)
            if now and secret.pepper == self.fingerprint:
                return known
            if now or (before is not None and hmac.compare_digest(before, secret.digest)):
                self.moves.add(Move(known.caller.key, secret.digest, shown))
                moved = Secret(shown, self.fingerprint, secret.until_ms)
                secrets = (*known.secrets[:place], moved, *known.secrets[place + 1 :])
                return msgspec.structs.replace(known, secrets=secrets)
        return None


class Moves:
    """Moves that wait to be written; bounded."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        self._waiting: dict[tuple[str, bytes], Move] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, move: Move) -> None:
        """Take one, if there is room."""
        if len(self._waiting) < MAX_WAITING:
            self._waiting[move.key, move.was] = move

    async def write(self, database: Database) -> None:
        """Write a batch, in one transaction. What the database does not take waits on. Raises SQLAlchemyError."""
        batch = sorted(self._waiting.items())[:BATCH]  # sorted: two gateways then cannot deadlock
        async with database.write() as connection:
            for _, move in batch:
                await directory.move_digest(connection, move.key, move.was, move.now, self._fingerprint)
        for place, _ in batch:
            del self._waiting[place]

    async def keep_writing(self, database: Database) -> None:
        """For ever; one task a process."""
        while True:
            await asyncio.sleep(PAUSE_S)
            while self._waiting:
                try:
                    await self.write(database)
                except (SQLAlchemyError, OSError, TimeoutError) as problem:
                    structlog.get_logger().warning("keys_not_moved_to_new_pepper", error=type(problem).__name__)
                    break
