"""JSON Web Tokens (RFC 7519): whether one is good, and whom it names.

What a token says of itself only finds the issuer; the issuers' file says what that issuer signs with, and its keys come
from where that file says. `jku`, `x5u`, `jwk` and `x5c` in a header are never looked at. A token that was verified is
remembered under the digest of the whole of it, until it ends or its key is withdrawn.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jwt
import msgspec

from gateway.core.errors import Unauthenticated
from gateway.identity.issuers import BadClaims, Identity, Issuer, identity_of
from gateway.identity.jwks import Key, Keys
from gateway.telemetry import clock

MESSAGE = (
    "The token is not accepted: it has expired, is not meant for this gateway, or is not signed by an issuer that it "
    "trusts."
)
REQUIRED = ["exp", "iss", "aud"]
TYPES = {None, "jwt", "at+jwt", "application/at+jwt"}


class Verified(msgspec.Struct, frozen=True):
    """A token that was found good: whom it names, when it ends, and the key that it was checked with."""

    identity: Identity
    issuer: str
    ends_at_ms: int
    key: Key
    algorithm: str


class Verifier:
    """The tokens of some issuers, by their claim `iss`. At most `size` are remembered, the first leaving first."""

    def __init__(
        self,
        issuers: Sequence[tuple[Issuer, Keys]],
        *,
        size: int,
        now_ms: Callable[[], int] = clock.now_ms,
    ) -> None:
        self._issuers = {issuer.issuer: (issuer, keys) for issuer, keys in issuers}
        self._longest = max((issuer.max_token_bytes for issuer, _ in issuers), default=0)
        self._size = size
        self._now_ms = now_ms
        self._remembered: OrderedDict[bytes, Verified] = OrderedDict()

    def count(self) -> int:
        """How many tokens are remembered."""
        return len(self._remembered)

    def remembered(self, token: str) -> Verified | None:
        """What is known of the token: no I/O, no signature checked. None: ask `verify`."""
        verified = self._remembered.get(whole(token))
        if verified is None:
            return None
        _, keys = self._issuers[verified.issuer]
        withdrawn = keys.current(verified.key.kid, verified.algorithm) is not verified.key
        if withdrawn or self._now_ms() >= verified.ends_at_ms:
            del self._remembered[whole(token)]
            return None
        return verified

    async def verify(self, token: str) -> Verified:
        """The same for a token that is not known. Raises Unauthenticated (one message for all reasons), Unavailable
        (its issuer's keys cannot be had)."""
        verified = self.remembered(token)
        if verified is not None:
            return verified
        if len(token) > self._longest:
            raise refused("too long")
        header, issuer, keys = self._claimed(token)
        algorithm, kid = header["alg"], header.get("kid")
        key = await keys.find(kid, algorithm)
        if key is None:
            raise refused("no such key")
        payload = self._checked(token, issuer, key, algorithm)
        try:
            identity = identity_of(issuer, payload)
        except BadClaims as problem:
            raise refused(str(problem)) from None
        verified = Verified(identity, issuer.issuer, payload["exp"] * 1000, key, algorithm)
        self._remember(token, verified)
        return verified

    def _claimed(self, token: str) -> tuple[Mapping[str, Any], Issuer, Keys]:
        """The header and whom the token says that it is from; nothing of it is proven. Raises Unauthenticated."""
        header, payload = unproven(token)
        name = payload.get("iss")
        if not isinstance(name, str) or name not in self._issuers:
            raise refused("unknown issuer")
        issuer, keys = self._issuers[name]
        kid, kind = header.get("kid"), header.get("typ")
        if len(token) > issuer.max_token_bytes:
            raise refused("too long")
        if header.get("alg") not in issuer.algorithms:
            raise refused("algorithm")
        # An extension that must be understood: none is (RFC 7515, 4.1.11; CVE-2026-32597).
        if "crit" in header or "b64" in header:
            raise refused("crit")
        if not (kid is None or (isinstance(kid, str) and len(kid) <= 512)):
            raise refused("kid")
        if not (kind is None or isinstance(kind, str)) or (kind and kind.lower()) not in TYPES:
            raise refused("typ")
        return header, issuer, keys

    def _checked(self, token: str, issuer: Issuer, key: Key, algorithm: str) -> Mapping[str, Any]:
        """The payload, once signature and times are found good. Raises Unauthenticated."""
        try:
            payload: dict[str, Any] = jwt.decode(
                token,
                key=key.key,  # type: ignore[arg-type]
                algorithms=[algorithm],  # which was on the issuer's list, and the key's own, before it came here
                audience=list(issuer.audience),
                issuer=issuer.issuer,
                leeway=issuer.leeway_s,
                options={"require": REQUIRED, "enforce_minimum_key_length": True},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as problem:
            raise refused(type(problem).__name__) from None
        if not all(type(payload.get(name, 0)) in (int, float) for name in ("exp", "nbf", "iat")):
            raise refused("times are no numbers")
        payload["exp"] = int(payload["exp"])
        begins = payload.get("iat", self._now_ms() / 1000)
        if payload["exp"] - begins > issuer.max_lifetime_s + issuer.leeway_s:
            raise refused("lives too long")
        return payload

    def _remember(self, token: str, verified: Verified) -> None:
        if self._now_ms() >= verified.ends_at_ms:
            return  # good by the leeway alone
        while len(self._remembered) >= self._size:
            self._remembered.popitem(last=False)
        self._remembered[whole(token)] = verified


def is_token(text: str) -> bool:
    """Whether the text has a token's three parts (an API key has no dot); nothing is proven by it."""
    return text.count(".") == 2


def whole(token: str) -> bytes:
    """Under what a token is remembered: no part of it will do."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def unproven(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and payload as the token has them, before any check. Raises Unauthenticated."""
    if not token.isascii() or not is_token(token):
        raise refused("no token")
    try:
        decoded = jwt.decode_complete(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as problem:
        raise refused(type(problem).__name__) from None
    return decoded["header"], decoded["payload"]


def refused(detail: str) -> Unauthenticated:
    return Unauthenticated(MESSAGE, detail=f"jwt: {detail}")
