"""Sealing evidence: packed, compressed, encrypted, and bound to its request and principal."""

import zlib
from base64 import urlsafe_b64encode
from collections.abc import Sequence

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.evidence.content import MAX_PACKED, Content

PURPOSE = b"catflap evidence 1"


class Unreadable(Exception):
    """Evidence that cannot be opened; the text says what to do."""


class _Packed(msgspec.Struct, frozen=True, array_like=True):
    """What is encrypted. Whose it is stands inside, so that nobody who can write to the database can pass one row off
    as another's."""

    request: str
    principal: str
    content: Content


class Seal:
    """The keys made from the secrets: the first encrypts, all of them decrypt. Raises ValueError without any."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys = MultiFernet([Fernet(_key_from(secret)) for secret in secrets])

    def close(self, request: str, principal: str, content: Content) -> bytes:
        """The content, encrypted. CPU work: some ms for a large one."""
        packed = msgspec.msgpack.encode(_Packed(request, principal, content))
        return self._keys.encrypt(zlib.compress(packed))

    def open(self, request: str, principal: str, body: bytes) -> Content:
        """The content of a row that says it is this request's of this principal. Raises Unreadable."""
        try:
            packed = zlib.decompressobj().decompress(self._keys.decrypt(body), MAX_PACKED)
            found = msgspec.msgpack.decode(packed, type=_Packed)
        except InvalidToken:
            raise Unreadable(
                "It was encrypted with a key that is not set here, or was changed since: set CATFLAP_EVIDENCE_KEY_OLD "
                "to the key before."
            ) from None
        except (zlib.error, msgspec.MsgspecError):
            raise Unreadable("What was encrypted cannot be read: another version of Catflap wrote it.") from None
        if (found.request, found.principal) != (request, principal):
            raise Unreadable("It is another request's evidence in this one's place: the database was tampered with.")
        return found.content


def _key_from(secret: str) -> bytes:
    """A Fernet key from a secret of any length."""
    return urlsafe_b64encode(HKDF(SHA256(), length=32, salt=None, info=PURPOSE).derive(secret.encode()))
