"""Tensors in the terms of KServe's protocol, version 2: raw contents, whatever the spelling that they came in.

Source: KServe, "Open Inference Protocol (V2)", and Triton's "Binary Tensor Data Extension": numbers are little-endian,
row-major; an element of a BYTES tensor is its length in four bytes and then itself.
"""

import math
import struct

import msgspec

ITEM_BYTES = {
    "BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2, "INT32": 4, "UINT32": 4, "FP32": 4,
    "INT64": 8, "UINT64": 8, "FP64": 8,
}  # fmt: skip
"""Bytes of one number of each datatype; BYTES, the datatype of strings, is the one beside them."""
LENGTH = struct.Struct("<I")


class Tensor(msgspec.Struct, frozen=True):
    """One tensor. Its shape fits its data: whoever makes one has seen to that."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def elements(self) -> int:
        """Numbers or strings."""
        return math.prod(self.shape)


def pack_strings(strings: list[bytes]) -> bytes:
    """The data of a BYTES tensor."""
    return b"".join([part for string in strings for part in (LENGTH.pack(len(string)), string)])


def unpack_strings(data: bytes, count: int) -> list[bytes]:
    """The `count` strings in the data of a BYTES tensor. Raises ValueError when it does not hold just these."""
    found, at, size = [], 0, len(data)
    for _ in range(count):
        begin = at + LENGTH.size
        if begin > size:
            raise ValueError("fewer strings than its shape says")
        at = begin + LENGTH.unpack_from(data, at)[0]
        if at > size:
            raise ValueError("a string that is shorter than it says")
        found.append(data[begin:at])
    if at != size:
        raise ValueError("more data than its shape says")
    return found
