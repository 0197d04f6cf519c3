"""The KV cache's book-keeping: which blocks are held by whom, and which hold a beginning that can be used again.

A full block is known by a hash over its tokens and the hash of the block before it, so that one hash stands for the
whole beginning of a sequence. A block that nobody holds keeps its contents until its place is needed.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

ROOT = b""
"""What stands before the first block of every sequence."""


class BlockPool:
    """A fixed number of blocks. Not for several threads."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.total = blocks
        self.block_size = block_size
        self._holders = [0] * blocks
        self._hash: list[bytes | None] = [None] * blocks
        self._known: dict[bytes, int] = {}
        # Least recently used first; those that hold nothing of use stand before all others.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(blocks))

    @property
    def free(self) -> int:
        """Blocks that nobody holds, with or without contents."""
        return len(self._free)

    @property
    def usage(self) -> float:
        """Share of the blocks that are held, 0 to 1."""
        return 1 - self.free / self.total

    def blocks_for(self, tokens: int) -> int:
        """How many blocks so many tokens take."""
        return -(-tokens // self.block_size)

    def take(self) -> int | None:
        """A block for new contents; None when every block is held."""
        if not self._free:
            return None
        block, _ = self._free.popitem(last=False)
        forgotten = self._hash[block]
        if forgotten is not None:
            del self._known[forgotten]
            self._hash[block] = None
        self._holders[block] = 1
        return block

    def beginning(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks that hold the longest known beginning of these chained hashes. Nobody holds them yet."""
        found: list[int] = []
        for one in hashes:
            block = self._known.get(one)
            if block is None:
                break
            found.append(block)
        return found

    def hold(self, blocks: Iterable[int]) -> None:
        """One more holder for each of these blocks."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._free[block]
            self._holders[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One holder fewer. The end of a sequence is forgotten before its beginning, which more others can use."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                self._free[block] = None
                self._free.move_to_end(block, last=self._hash[block] is not None)

    def publish(self, block: int, chained: bytes) -> None:
        """From now on this full block can be found by its hash, unless another one can already."""
        if self._hash[block] is None and chained not in self._known:
            self._known[chained] = block
            self._hash[block] = chained


def chain(before: bytes, tokens: Sequence[int]) -> bytes:
    """The hash of a full block, given that of the block before it. Not to be forged by choosing a prompt."""
    return hashlib.blake2b(before + np.asarray(tokens, np.uint32).tobytes(), digest_size=16).digest()
