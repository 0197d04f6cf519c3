"""Who a token belongs to: a bounded cache in front of the database, asked by every request.

The epoch rule. Admission returns the organisation's epoch; a revocation changes it, after it has committed in SQL. An
entry carries the epoch that was read *before* its load began, so it is as new as that epoch or newer. One stamped
otherwise, or not at all, is loaded again (`refresh`) before its request goes on. A load that others overtook is good
for those who wait for it, whose epoch is compared again after admission, but is not remembered (cache.py).

Every wait is bounded by `timeout_s`, and so are the number of entries and of loads at a time (loads.py). Database down
or slow: known keys work until their entry is `cache_s` old, others get Unavailable, never Unauthenticated.

JSON Web Tokens are an equal way in: the verifier (tokens.py) says whom a token names, everything else is the same.
"""

import time
from collections.abc import Callable

from gateway.core.errors import Unauthenticated
from gateway.identity.cache import KeyCache, Known
from gateway.identity.keys import PREFIX, claimed_id, parse_token
from gateway.identity.loads import MAX_LOADS, MESSAGE, REFUSAL_S, Loads, Subject, cache_id
from gateway.identity.pepper import Peppers
from gateway.identity.tokens import Verifier, is_token
from gateway.storage.database import Database
from gateway.telemetry import clock

__all__ = ["Directory", "Known"]


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
        old_pepper: bytes | None = None,
        verifier: Verifier | None = None,
        max_loads: int = MAX_LOADS,
        monotonic: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = clock.now_ms,
    ) -> None:
        self._database = database
        self._peppers = Peppers(pepper, old_pepper)
        self._verifier = verifier
        self._cache_s = cache_s
        self._monotonic = monotonic
        self._now_ms = now_ms
        self._cache = KeyCache(cache_size)
        self._loads = Loads(database, self._cache, timeout_s=timeout_s, max_loads=max_loads, monotonic=monotonic)

    def known(self, token: str) -> Known | None:
        """The token's entry if it is remembered, fresh and unexpired. No I/O. None: ask `resolve`."""
        if not token.startswith(PREFIX):
            return self._known_by_signature(token)
        held = self._cache.get(claimed_id(token))
        # The id only finds the entry; the digest of the whole token decides. A cache that answers to a part of the
        # token lets in whoever knows that part (CVE-2026-35030).
        if held is None or not self._peppers.opens(held, token, self._now_ms):
            return None
        return held if self._fresh(held) and not self._expired(held) else None

    async def resolve(self, token: str) -> Known:
        """The token's entry, from the cache or the database.

        Raises Unauthenticated (no key, unknown, revoked, expired: one message for all), Unavailable (503).
        """
        subject = await self._subject(token)
        held = self._cache.get(cache_id(subject))
        if held is None or not self._fresh(held) or self._may_have_been_rotated(held, token):
            held = await self._loads.load(subject, None)
        return self._admitted(held, token)

    async def refresh(self, token: str, epoch: int) -> Known:
        """The token's entry as of `epoch`, which admission has just returned for its organisation; all that is
        remembered of that organisation under another epoch is dropped. Raises as `resolve` does."""
        subject = await self._subject(token)
        held = self._cache.get(cache_id(subject))
        if held is not None and (held.epoch != epoch or not self._fresh(held)):
            self._cache.drop(held.caller.organisation, epoch)
            held = None
        if held is None:
            held = await self._loads.load(subject, epoch)
        return self._admitted(held, token)

    async def keep_moving_keys(self) -> None:
        """Write keys that were used under the old pepper under the current one, for ever; one task a process."""
        await self._peppers.moves.keep_writing(self._database)

    async def close(self) -> None:
        """Give up the loads under way."""
        await self._loads.close()

    async def _subject(self, token: str) -> Subject:
        """Whom the token claims (a key, to be held against its digest) or proves (a signature) to be."""
        if self._verifier is not None and is_token(token):
            return (await self._verifier.verify(token)).identity
        key_id = parse_token(token)
        if key_id is None:
            raise Unauthenticated(MESSAGE, detail="not a key")
        return key_id

    def _known_by_signature(self, token: str) -> Known | None:
        verified = None if self._verifier is None else self._verifier.remembered(token)
        held = None if verified is None else self._cache.get(verified.identity.id)
        return held if held is not None and self._fresh(held) else None

    def _fresh(self, known: Known) -> bool:
        return self._monotonic() - known.loaded_at < self._cache_s

    def _expired(self, known: Known) -> bool:
        return known.expires_at_ms is not None and self._now_ms() >= known.expires_at_ms

    def _may_have_been_rotated(self, held: Known, token: str) -> bool:
        """A key that is remembered has not this secret: perhaps it has a new one. Asked once in REFUSAL_S a key, so
        that those who know an id and make up secrets cost no more than that."""
        if not held.secrets or self._monotonic() - held.loaded_at < REFUSAL_S:
            return False
        return self._peppers.opened(held, token, self._now_ms()) is None

    def _admitted(self, known: Known, token: str) -> Known:
        if not token.startswith(PREFIX):
            return known  # the verifier has vouched for it
        opened = self._peppers.opened(known, token, self._now_ms())
        if opened is None:
            raise Unauthenticated(MESSAGE, detail="wrong secret")
        if opened is not known:
            self._cache.exchange(known.caller.key, known, opened)
        if self._expired(opened):
            raise Unauthenticated(MESSAGE, detail="expired")
        return opened
