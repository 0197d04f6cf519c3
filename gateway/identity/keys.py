"""API keys: how a token is built, read and compared. Pure.

    cf-  17 characters  33 characters  6 characters
         key id         secret         checksum

The id part (96 bits) finds the row, `key_<id part>`; the secret (192 bits) is stored nowhere; what is stored is the
HMAC-SHA-256 of the whole token under the pepper, so that neither the database nor a digest taken from it lets anyone
in. The checksum refuses mistyped and made-up tokens before any I/O; it proves nothing.
"""

import hmac

from gateway.core.ids import base62, checksum

PREFIX = "cf-"
ID_PREFIX = "key_"
ID_LENGTH = 17
SECRET_LENGTH = 33
SECRET_BYTES = 24
CHECKSUM_LENGTH = 6
ID_END = len(PREFIX) + ID_LENGTH
BODY_END = ID_END + SECRET_LENGTH
TOKEN_LENGTH = BODY_END + CHECKSUM_LENGTH


def make_token(key_id: str, entropy: bytes) -> str:
    """The token of the key `key_…` with 24 bytes of entropy for its secret."""
    if len(entropy) != SECRET_BYTES or len(key_id) != len(ID_PREFIX) + ID_LENGTH:
        raise ValueError("a token takes a key id and 24 bytes of entropy")
    body = f"{PREFIX}{key_id[len(ID_PREFIX) :]}{base62(int.from_bytes(entropy), SECRET_LENGTH)}"
    return body + checksum(body)


def parse_token(text: str) -> str | None:
    """The id of the key that `text` claims to be; None when it cannot be a token at all. Nothing is proven by it."""
    if len(text) != TOKEN_LENGTH or not text.startswith(PREFIX):
        return None
    tail = text[len(PREFIX) :]
    if not (tail.isascii() and tail.isalnum()):
        return None
    if checksum(text[:BODY_END]) != text[BODY_END:]:
        return None
    return claimed_id(text)


def claimed_id(text: str) -> str:
    """What `parse_token` finds in a good token, without the checks: enough to look where comparing digests decides."""
    return ID_PREFIX + text[len(PREFIX) : ID_END]


def digest(pepper: bytes, token: str) -> bytes:
    """32 bytes: what is stored in a token's stead. Any text has one, unpaired surrogates too."""
    return hmac.digest(pepper, token.encode(errors="surrogatepass"), "sha256")


def matches(pepper: bytes, token: str, stored: bytes) -> bool:
    """Whether `stored` is this token's digest, in a time that tells nothing."""
    return hmac.compare_digest(digest(pepper, token), stored)
