"""Who a token belongs to: a bounded cache in front of the database, asked by every request.

The epoch rule. Admission returns the organisation's epoch; a revocation changes it, after it has committed in SQL. An
entry carries the epoch that was read *before* its load began, so it is as new as that epoch or newer. One stamped
otherwise, or not at all, is loaded again (`refresh`) before its request goes on. A load that others overtook is good
for those who wait for it, whose epoch is compared again after admission, but is not remembered (cache.py).

Every wait is bounded by `timeout_s`, and so are the number of entries and of loads at a time. Database down or slow:
known keys work until their entry is `cache_s` old, others get Unavailable, never Unauthenticated.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from gateway.core.caller import Caller
from gateway.core.errors import Unauthenticated, Unavailable
from gateway.identity.cache import KeyCache, Known
from gateway.identity.keys import claimed_id, matches, parse_token
from gateway.storage import directory
from gateway.storage.database import Database

__all__ = ["Directory", "Known"]

MAX_LOADS = 8  # at the database at a time, for keys that are not remembered; as many more for those that are
MAX_WAITING = 1024  # for a place among them
MAX_REFUSALS = 10_000
REFUSAL_S = 1.0  # how long an unknown or revoked id is refused without asking again: neither state ever ends
RETRY_AFTER_MS = 1000
MESSAGE = "Incorrect API key provided. Ask whoever runs this gateway for a valid key."


class Failed(msgspec.Struct, frozen=True):
    """A load that found no usable key. `refused`: the key is no good; else the database did not answer."""

    refused: bool
    detail: str


def system_ms() -> int:
    """Milliseconds since the epoch by this machine's clock."""
    return time.time_ns() // 1_000_000


class Directory:
    """One process's directory, used from one event loop. `cache_s`, `timeout_s` in seconds, `cache_size` in keys."""

    def __init__(
        self,
        database: Database,
        pepper: bytes,
        *,
        cache_s: float,
        cache_size: int,
        timeout_s: float,
        max_loads: int = MAX_LOADS,
        monotonic: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = system_ms,
    ) -> None:
        self._database = database
        self._pepper = pepper
        self._cache_s = cache_s
        self._timeout_s = timeout_s
        # Anyone can make up ids that parse. Those wait in a queue of their own, so that however many they are, keys
        # that were known a moment ago find a place.
        self._strangers = asyncio.Semaphore(max_loads)
        self._known = asyncio.Semaphore(max_loads)
        self._monotonic = monotonic
        self._now_ms = now_ms
        self._cache = KeyCache(cache_size)
        self._loads: dict[tuple[str, int | None], asyncio.Task[Known | Failed]] = {}
        self._refused: OrderedDict[str, float] = OrderedDict()

    def known(self, token: str) -> Known | None:
        """The token's entry if it is remembered, fresh and unexpired. No I/O. None: ask `resolve`."""
        held = self._cache.get(claimed_id(token))
        # The id only finds the entry; the digest of the whole token decides. A cache that answers to a part of the
        # token lets in whoever knows that part (CVE-2026-35030).
        if held is None or not matches(self._pepper, token, held.digest):
            return None
        return held if self._fresh(held) and not self._expired(held) else None

    async def resolve(self, token: str) -> Known:
        """The token's entry, from the cache or the database.

        Raises Unauthenticated (no key, unknown, revoked, expired: one message for all), Unavailable (503).
        """
        key_id = self._claimed(token)
        held = self._cache.get(key_id)
        if held is None or not self._fresh(held):
            held = await self._load(key_id, None)
        return self._admitted(held, token)

    async def refresh(self, token: str, epoch: int) -> Known:
        """The token's entry as of `epoch`, which admission has just returned for its organisation; all that is
        remembered of that organisation under another epoch is dropped. Raises as `resolve` does."""
        key_id = self._claimed(token)
        held = self._cache.get(key_id)
        if held is not None and (held.epoch != epoch or not self._fresh(held)):
            self._cache.drop(held.caller.organisation, epoch)
            held = None
        if held is None:
            held = await self._load(key_id, epoch)
        return self._admitted(held, token)

    async def close(self) -> None:
        """Give up the loads under way."""
        tasks = list(self._loads.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _claimed(self, token: str) -> str:
        key_id = parse_token(token)
        if key_id is None:
            raise Unauthenticated(MESSAGE, detail="not a key")
        return key_id

    def _fresh(self, known: Known) -> bool:
        return self._monotonic() - known.loaded_at < self._cache_s

    def _expired(self, known: Known) -> bool:
        return known.expires_at_ms is not None and self._now_ms() >= known.expires_at_ms

    def _admitted(self, known: Known, token: str) -> Known:
        if not matches(self._pepper, token, known.digest):
            raise Unauthenticated(MESSAGE, detail="wrong secret")
        if self._expired(known):
            raise Unauthenticated(MESSAGE, detail="expired")
        return known

    async def _load(self, key_id: str, epoch: int | None) -> Known:
        """Ask the database, together with all who ask the same. Who gives up waiting does not end it for the others."""
        task = self._loads.get((key_id, epoch)) or self._begin(key_id, epoch)
        done, _ = await asyncio.wait({task}, timeout=self._timeout_s)
        if not done or task.cancelled():
            raise unavailable("timed out")
        result = task.result()
        if isinstance(result, Known):
            return result
        if result.refused:
            raise Unauthenticated(MESSAGE, detail=result.detail)
        raise unavailable(result.detail)

    def _begin(self, key_id: str, epoch: int | None) -> "asyncio.Task[Known | Failed]":
        if self._refused.get(key_id, 0.0) > self._monotonic():
            raise Unauthenticated(MESSAGE, detail="refused a moment ago")
        remembered = self._cache.get(key_id) is not None or epoch is not None
        if len(self._loads) >= MAX_WAITING and not remembered:
            raise unavailable("too many loads at a time")
        place = self._known if remembered else self._strangers
        task = asyncio.create_task(self._read(key_id, epoch, place))
        self._loads[key_id, epoch] = task
        task.add_done_callback(lambda _: self._loads.pop((key_id, epoch)))
        return task

    async def _read(self, key_id: str, epoch: int | None, place: asyncio.Semaphore) -> Known | Failed:
        try:
            async with asyncio.timeout(self._timeout_s), place:
                number, started = self._cache.begin(), self._monotonic()
                async with self._database.read() as connection:
                    row = await directory.find_key(connection, key_id)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            # Only the kind of it: a driver's text may quote the statement and its parameters.
            return Failed(refused=False, detail=type(error).__name__)
        if row is None or row["revoked_at_ms"] is not None:
            self._refuse(key_id)
            return Failed(refused=True, detail="unknown" if row is None else "revoked")
        caller = Caller(
            organisation=row["organisation"],
            project=row["project"],
            principal=row["principal"],
            key=row["id"],
            plan=row["plan"],
        )
        known = Known(caller, row["digest"], row["expires_at_ms"], epoch, started)
        return self._cache.put(key_id, known, number)

    def _refuse(self, key_id: str) -> None:
        while len(self._refused) >= MAX_REFUSALS:
            self._refused.popitem(last=False)
        self._refused[key_id] = self._monotonic() + REFUSAL_S
        self._refused.move_to_end(key_id)


def unavailable(detail: str) -> Unavailable:
    return Unavailable(
        "API keys cannot be checked at the moment. Please try again.",
        detail=f"directory: {detail}",
        retry_after_ms=RETRY_AFTER_MS,
    )
