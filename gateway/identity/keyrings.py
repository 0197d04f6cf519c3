"""The keys that each issuer's tokens are checked with, from where the issuers' file says."""

from pathlib import Path

from gateway.identity.issuers import MIN_SECRET_BYTES, Issuer, IssuerError
from gateway.identity.jwks import BadKeySet, FetchedKeys, FixedKeys, Key, Keys, fetch_jwks, parse_jwks


def keys_of(issuer: Issuer, folder: Path) -> Keys:
    """The issuer's keys; files are looked for in `folder`. Raises IssuerError."""
    if issuer.jwks_url is not None:
        return FetchedKeys(issuer, fetch_jwks)
    path = folder / (issuer.jwks_file or issuer.secret_file or "")
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise IssuerError(f"Issuer {issuer.name!r}: {path} cannot be read ({problem.strerror}).") from None
    if issuer.jwks_file is not None:
        try:
            return FixedKeys(parse_jwks(data, frozenset(issuer.algorithms)))
        except BadKeySet as problem:
            raise IssuerError(f"Issuer {issuer.name!r}: {path} is no JWKS for its algorithms: {problem}.") from None
    secret = data.strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise IssuerError(f"Issuer {issuer.name!r}: {path} must hold {MIN_SECRET_BYTES} bytes or more.")
    return FixedKeys((Key(None, frozenset(issuer.algorithms), secret),))
