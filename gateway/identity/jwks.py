"""An issuer's public keys: fetched, bounded, remembered, and used for a stated time while the issuer is away.

Requests never wait for a fetch that is not needed: keys are fetched again in the background before they are old. A
request waits for one, at most FETCH_S, where there are no keys yet or its token names a key that was never seen; one
fetch serves all who wait, and there is at most one in `fetch_pause_s`, whatever tokens strangers make up.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import aiohttp
import jwt
import msgspec
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.types import JWKDict

from gateway.core.errors import Unavailable
from gateway.identity.issuers import EC, ED, RSA, Issuer
from gateway.telemetry import metrics

FETCH_S = 5.0
MAX_BYTES = 256 << 10
MAX_KEYS = 32
MAX_UNKNOWN = 1000  # kids that the issuer is known not to have
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
KTY = {"RSA": RSA, "EC": EC, "OKP": ED}
CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}


class BadKeySet(Exception):
    """What the issuer publishes cannot be used; the message is for the log and quotes nothing of it."""


class Key(msgspec.Struct, frozen=True, eq=False):
    """One key that tokens may be checked with, and the algorithms that it may be used for: those of the issuer's list
    that are of the key's own kind. A key of one kind is never handed to an algorithm of another."""

    kid: str | None
    algorithms: frozenset[str]
    key: object


class Keys(Protocol):
    """Where an issuer's keys come from."""

    def current(self, kid: str | None, algorithm: str) -> Key | None:
        """The key, if it is known and good now."""

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The same, asking the issuer where that may help. None: it has no such key. Raises Unavailable."""

    async def keep(self) -> None:
        """Look after them, for ever."""

    async def close(self) -> None:
        """Give up what is under way."""


def parse_jwks(data: bytes, allowed: frozenset[str]) -> tuple[Key, ...]:
    """The usable keys of a JWKS (RFC 7517); those for other uses or of other kinds are passed over. Raises BadKeySet.

    Private and symmetric keys are passed over too: what is published is no secret.
    """
    try:
        entries = msgspec.json.decode(data, type=dict[str, object]).get("keys")
    except (msgspec.DecodeError, RecursionError):
        raise BadKeySet("not a JSON object") from None
    if not isinstance(entries, list) or len(entries) > MAX_KEYS:
        raise BadKeySet(f"no list `keys` of at most {MAX_KEYS}")
    keys = tuple(key for entry in entries if isinstance(entry, dict) and (key := parse_jwk(entry, allowed)) is not None)
    if not keys:
        raise BadKeySet("no usable key")
    return keys


def parse_jwk(entry: JWKDict, allowed: frozenset[str]) -> Key | None:
    """One entry as a key; None where it is of no use here."""
    kid, kind, operations = entry.get("kid"), entry.get("kty"), entry.get("key_ops", ["verify"])
    algorithms = allowed & KTY.get(str(kind), frozenset())
    if kind == "EC":
        algorithms &= {CURVES.get(str(entry.get("crv")), "")}
    if entry.get("alg") is not None:
        algorithms &= {str(entry["alg"])}
    if not algorithms or entry.get("use", "sig") != "sig" or "d" in entry:
        return None
    if not (isinstance(operations, list) and "verify" in operations):
        return None
    if kid is not None and not (isinstance(kid, str) and len(kid) <= 512):
        return None
    try:
        key = jwt.PyJWK(entry, algorithm=min(algorithms)).key
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        return None
    if isinstance(key, RSAPublicKey) and not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        return None
    return Key(kid, algorithms, key)


def choose(keys: tuple[Key, ...], kid: str | None, algorithm: str) -> Key | None:
    """The key of that id for that algorithm. A token that names no key, or a name that two keys have, is checked only
    where there is no choice."""
    fitting = [key for key in keys if algorithm in key.algorithms and kid in (None, key.kid)]
    return fitting[0] if len(fitting) == 1 else None


class FixedKeys:
    """Keys that do not change: from a file, or one secret."""

    def __init__(self, keys: tuple[Key, ...]) -> None:
        self._keys = keys

    def current(self, kid: str | None, algorithm: str) -> Key | None:
        """As in Keys."""
        return choose(self._keys, kid, algorithm)

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        """As in Keys."""
        return self.current(kid, algorithm)

    async def keep(self) -> None:
        """As in Keys: there is nothing to do."""

    async def close(self) -> None:
        """As in Keys."""


Fetch = Callable[[str], Awaitable[bytes]]


class FetchedKeys:
    """Keys from the issuer's `jwks_url`. See the module."""

    def __init__(self, issuer: Issuer, fetch: Fetch, monotonic: Callable[[], float] = time.monotonic) -> None:
        assert issuer.jwks_url is not None
        self._issuer = issuer
        self._url = issuer.jwks_url
        self._allowed = frozenset(issuer.algorithms)
        self._fetch = fetch
        self._monotonic = monotonic
        self._keys: tuple[Key, ...] = ()
        self._good_until = -1.0
        self._next_fetch = -1.0
        self._failing = False
        self._unknown: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    def current(self, kid: str | None, algorithm: str) -> Key | None:
        """As in Keys. Keys that the issuer has not confirmed for `keys_good_for_s` are good no more."""
        return choose(self._keys, kid, algorithm) if self._monotonic() < self._good_until else None

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        """As in Keys."""
        key = self.current(kid, algorithm)
        if key is not None or (self._good() and self._has_not(kid)):
            return key
        if self._task is None and self._monotonic() < self._next_fetch:
            raise self._away()  # nobody has looked for this key since it came up; the next fetch will
        done, _ = await asyncio.wait({self._begin()}, timeout=FETCH_S)
        if not done or self._failing or not self._good():
            raise self._away()
        key = self.current(kid, algorithm)
        if key is None and kid is not None:
            self._note_unknown(kid)
        return key

    async def keep(self) -> None:
        """As in Keys: fetch again every `refresh_s`, and while that fails every `fetch_pause_s`."""
        while True:
            await asyncio.sleep(max(0.0, self._next_fetch - self._monotonic()))
            await asyncio.wait({self._begin()})
            await asyncio.sleep(self._issuer.fetch_pause_s if self._failing else self._issuer.refresh_s)

    async def close(self) -> None:
        """As in Keys."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _good(self) -> bool:
        return self._monotonic() < self._good_until

    def _has_not(self, kid: str | None) -> bool:
        """Whether the issuer is known not to have it. A token that names none needs no fetch: it is looked at again
        when the keys are."""
        return kid is None or kid in self._unknown

    def _note_unknown(self, kid: str) -> None:
        if len(self._unknown) >= MAX_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[kid] = None

    def _begin(self) -> "asyncio.Task[None]":
        """The fetch under way, or a new one."""
        if self._task is None:
            self._next_fetch = self._monotonic() + self._issuer.fetch_pause_s
            self._task = asyncio.create_task(self._refresh())
            self._task.add_done_callback(self._ended)
        return self._task

    def _ended(self, _task: "asyncio.Task[None]") -> None:
        self._task = None

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(FETCH_S):
                keys = parse_jwks(await self._fetch(self._url), self._allowed)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, BadKeySet) as problem:
            self._fail(problem)
            return
        # A key that stays is the same object: what was verified with it stays verified, with one that is gone not.
        before = {fingerprint(key): key for key in self._keys}
        self._keys = tuple(before.get(fingerprint(key), key) for key in keys)
        self._good_until = self._monotonic() + self._issuer.keys_good_for_s
        self._unknown.clear()
        if self._failing:
            structlog.get_logger().info("jwks_back", issuer=self._issuer.name)
        self._failing = False

    def _fail(self, problem: Exception) -> None:
        metrics.jwks_failures.labels(self._issuer.name).inc()
        if not self._failing:
            reason = str(problem) if isinstance(problem, BadKeySet) else type(problem).__name__
            structlog.get_logger().warning("jwks_away", issuer=self._issuer.name, error=reason)
        self._failing = True

    def _away(self) -> Unavailable:
        wait = max(0.0, self._next_fetch - self._monotonic())
        return Unavailable(
            "Tokens of this issuer cannot be checked at the moment. Please try again.",
            detail=f"jwks: {self._issuer.name}",
            retry_after_ms=int(wait * 1000) + 1000,
        )


def fingerprint(key: Key) -> object:
    """Equal for keys that are the same in every way."""
    numbers = getattr(key.key, "public_numbers", None)
    material = numbers() if callable(numbers) else key.key.public_bytes_raw()  # type: ignore[attr-defined]
    return key.kid, key.algorithms, material


async def fetch_jwks(url: str) -> bytes:
    """The document at `url`, MAX_BYTES at most. No redirects, no compression, no proxy of the environment.

    Raises aiohttp.ClientError, OSError, TimeoutError, BadKeySet.
    """
    timeout = aiohttp.ClientTimeout(total=FETCH_S)
    headers = {"accept": "application/jwk-set+json, application/json", "accept-encoding": "identity"}
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=False, auto_decompress=False) as session,
        session.get(url, allow_redirects=False, headers=headers) as answer,
    ):
        if answer.status != 200:
            raise BadKeySet(f"status {answer.status}")
        data = await answer.content.read(MAX_BYTES + 1)
        while len(data) <= MAX_BYTES and (more := await answer.content.read(MAX_BYTES + 1 - len(data))):
            data += more
    if len(data) > MAX_BYTES:
        raise BadKeySet(f"larger than {MAX_BYTES} bytes")
    return data
