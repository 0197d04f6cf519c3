"""Loads of credentials from the database: shared by all who ask for the same, bounded in number and in time."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from gateway.core.caller import Caller
from gateway.core.errors import Unauthenticated, Unavailable
from gateway.identity.address import parse_network
from gateway.identity.bounds import from_column
from gateway.identity.cache import KeyCache, Known, Secret
from gateway.identity.issuers import Identity
from gateway.identity.principals import ensure_principal, overrides_of
from gateway.storage import directory
from gateway.storage.database import Database
from gateway.storage.regard import regard_of

MAX_LOADS = 8  # at the database at a time, for credentials that are not remembered; as many more for those that are
MAX_WAITING = 1024  # for a place among them
MAX_REFUSALS = 10_000
REFUSAL_S = 1.0  # how long an unknown or revoked id is refused without asking again: neither state ever ends
RETRY_AFTER_MS = 1000
MESSAGE = "Incorrect API key provided. Ask whoever runs this gateway for a valid key."

Subject = str | Identity
"""What is loaded: a key by its id, or the principal that a JSON Web Token names."""


def cache_id(subject: Subject) -> str:
    """Under what the subject is remembered. No two subjects share one: a key's id has no colon in it."""
    return subject if isinstance(subject, str) else subject.id


class Failed(msgspec.Struct, frozen=True):
    """A load that found nothing usable. `refused`: the key is no good; else the database did not answer."""

    refused: bool
    detail: str


class Loads:
    """One process's loads. What they find is put into the cache."""

    def __init__(
        self,
        database: Database,
        cache: KeyCache,
        *,
        timeout_s: float,
        max_loads: int,
        monotonic: Callable[[], float],
    ) -> None:
        self._database = database
        self._cache = cache
        self._timeout_s = timeout_s
        self._monotonic = monotonic
        # Anyone can make up ids that parse. Those wait in a queue of their own, so that however many they are, keys
        # that were known a moment ago find a place.
        self._strangers = asyncio.Semaphore(max_loads)
        self._known = asyncio.Semaphore(max_loads)
        self._tasks: dict[tuple[str, int | None], asyncio.Task[Known | Failed]] = {}
        self._refused: OrderedDict[str, float] = OrderedDict()

    async def load(self, subject: Subject, epoch: int | None) -> Known:
        """Ask the database, together with all who ask the same. Who gives up waiting does not end it for the others.

        Raises Unauthenticated (no such key, or revoked), Unavailable (the database did not answer).
        """
        task = self._tasks.get((cache_id(subject), epoch)) or self._begin(subject, epoch)
        done, _ = await asyncio.wait({task}, timeout=self._timeout_s)
        if not done or task.cancelled():
            raise unavailable("timed out")
        result = task.result()
        if isinstance(result, Known):
            return result
        if result.refused:
            raise Unauthenticated(MESSAGE, detail=result.detail)
        raise unavailable(result.detail)

    async def close(self) -> None:
        """Give up those under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, subject: Subject, epoch: int | None) -> "asyncio.Task[Known | Failed]":
        name = cache_id(subject)
        if self._refused.get(name, 0.0) > self._monotonic():
            raise Unauthenticated(MESSAGE, detail="refused a moment ago")
        remembered = self._cache.get(name) is not None or epoch is not None or isinstance(subject, Identity)
        if len(self._tasks) >= MAX_WAITING and not remembered:
            raise unavailable("too many loads at a time")
        place = self._known if remembered else self._strangers
        task = asyncio.create_task(self._read(subject, epoch, place))
        self._tasks[name, epoch] = task
        task.add_done_callback(lambda _: self._tasks.pop((name, epoch)))
        return task

    async def _read(self, subject: Subject, epoch: int | None, place: asyncio.Semaphore) -> Known | Failed:
        try:
            async with asyncio.timeout(self._timeout_s), place:
                number, started = self._cache.begin(), self._monotonic()
                rows = await self._rows(subject)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            # Only the kind of it: a driver's text may quote the statement and its parameters.
            return Failed(refused=False, detail=type(error).__name__)
        if isinstance(subject, Identity):
            return self._cache.put(subject.id, entry_of_token(subject, rows, epoch, started), number)
        if not rows or rows[0]["revoked_at_ms"] is not None:
            self._refuse(subject)
            return Failed(refused=True, detail="revoked" if rows else "unknown")
        return self._cache.put(subject, entry_of_key(rows, epoch, started), number)

    async def _rows(self, subject: Subject) -> directory.Rows:
        if isinstance(subject, str):
            async with self._database.read() as connection:
                return await directory.find_key_and_limits(connection, subject)
        where = directory.named(subject.organisation, subject.project, subject.principal)
        async with self._database.read() as connection:
            rows = await directory.find_principal_and_limits(connection, *where)
        if rows:
            return rows
        async with self._database.write() as connection:  # at its first sight
            await ensure_principal(connection, subject.organisation, subject.project, subject.principal, subject.kind)
            return await directory.find_principal_and_limits(connection, *where)

    def _refuse(self, key_id: str) -> None:
        while len(self._refused) >= MAX_REFUSALS:
            self._refused.popitem(last=False)
        self._refused[key_id] = self._monotonic() + REFUSAL_S
        self._refused.move_to_end(key_id)


def entry_of_key(rows: directory.Rows, epoch: int | None, loaded_at: float) -> Known:
    """A key as it is remembered, from its row (once for each limit of its principal's own)."""
    row = rows[0]
    scopes, models = from_column(row["scopes"]), from_column(row["models"])
    addresses = from_column(row["addresses"])
    caller = Caller(
        organisation=row["organisation"],
        project=row["project"],
        principal=row["principal"],
        key=row["id"],
        plan=row["plan"],
        scopes=None if scopes is None else frozenset(scopes),
        models=None if models is None else frozenset(models),
        tags=from_column(row["tags"]) or (),
        created_at_ms=row["principal_created_at_ms"],
        regard=regard_of(row),
        overrides=overrides_of(rows),
    )
    secrets = [Secret(row["digest"], row["pepper"])]
    if row["old_digest"] is not None:
        secrets.append(Secret(row["old_digest"], row["old_pepper"], row["old_until_ms"]))
    networks = None if addresses is None else tuple(parse_network(address) for address in addresses)
    return Known(caller, tuple(secrets), row["expires_at_ms"], epoch, loaded_at, networks)


def entry_of_token(identity: Identity, rows: directory.Rows, epoch: int | None, loaded_at: float) -> Known:
    """A JSON Web Token's principal as it is remembered."""
    row = rows[0]
    caller = Caller(
        organisation=row["organisation"],
        project=row["project"],
        principal=row["principal"],
        key=f"jwt:{identity.issuer}:{row['principal']}",
        plan=identity.plan,
        scopes=identity.scopes,
        models=identity.models,
        tags=identity.tags,
        created_at_ms=row["principal_created_at_ms"],
        regard=regard_of(row),
        overrides=overrides_of(rows),
    )
    return Known(caller, (), None, epoch, loaded_at, identity.networks)


def unavailable(detail: str) -> Unavailable:
    return Unavailable(
        "API keys cannot be checked at the moment. Please try again.",
        detail=f"directory: {detail}",
        retry_after_ms=RETRY_AFTER_MS,
    )
