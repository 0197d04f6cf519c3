"""Identifiers: a prefix that says what it names, and random or time-ordered text behind it.

Pure: the caller brings the entropy and the time.
"""

from binascii import crc32

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def base62(number: int, width: int) -> str:
    """`number` in base 62, left-padded with zeros to at least `width` characters."""
    digits = []
    while number:
        number, rest = divmod(number, 62)
        digits.append(ALPHABET[rest])
    return "".join(reversed(digits)).rjust(width, "0")


def make_id(prefix: str, entropy: bytes) -> str:
    """`org_3f9…`: `prefix`, an underscore, and 12 bytes of entropy as 17 base-62 characters."""
    return f"{prefix}_{base62(int.from_bytes(entropy[:12]), 17)}"


def request_id(now_ms: int, entropy: bytes) -> str:
    """`req_` and 32 hex digits: 48 bits of time, then 80 random bits (the order of UUIDv7).

    Time first, so that rows of one hour lie together in the ledger's index.
    """
    return f"req_{now_ms:012x}{entropy[:10].hex()}"


def checksum(text: str) -> str:
    """Six base-62 characters of CRC-32: catches a mistyped key, proves nothing."""
    return base62(crc32(text.encode()), 6)


def partition_of(organisation: str, partitions: int) -> int:
    """The partition that holds all of an organisation's quota state and events."""
    return crc32(organisation.encode()) % partitions
