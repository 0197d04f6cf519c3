"""The credential of a request: `Authorization: Bearer TOKEN` (RFC 6750)."""

from gateway.core.errors import Unauthenticated


def bearer_token(header: bytes | None) -> str:
    """The token in an Authorization header. Raises Unauthenticated."""
    if header is None:
        raise Unauthenticated(
            "No API key was given. Send it in the header 'Authorization: Bearer YOUR_KEY'.", detail="no header"
        )
    scheme, _, token = header.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("The Authorization header must read 'Bearer YOUR_KEY'.", detail="not a bearer token")
    return token.strip()
