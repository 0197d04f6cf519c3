"""The book-keeping of the KV cache."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tinyllm.blocks import ROOT, BlockPool, chain


def test_a_hash_stands_for_the_whole_beginning() -> None:
    first = chain(ROOT, [1, 2])
    assert chain(first, [3, 4]) != chain(ROOT, [3, 4])
    assert chain(first, [3, 4]) == chain(chain(ROOT, [1, 2]), [3, 4])


def test_a_block_that_nobody_holds_keeps_its_contents_until_its_place_is_needed() -> None:
    pool = BlockPool(2, 4)
    first = pool.take()
    assert first is not None
    pool.publish(first, b"one")
    pool.release([first])
    assert (pool.free, pool.beginning([b"one", b"two"])) == (2, [first])
    assert pool.take() != first  # the empty one goes first
    assert pool.beginning([b"one"]) == [first]
    assert pool.take() == first
    assert pool.beginning([b"one"]) == []
    assert pool.take() is None


def test_a_block_with_two_holders_is_free_when_both_have_left() -> None:
    pool = BlockPool(1, 4)
    block = pool.take()
    assert block is not None
    pool.publish(block, b"one")
    pool.hold(pool.beginning([b"one"]))
    pool.release([block])
    assert (pool.free, pool.usage) == (0, 1.0)
    pool.release([block])
    assert (pool.free, pool.usage) == (1, 0.0)


class Pool(RuleBasedStateMachine):
    """Holders that come and go: no block is ever both held and free, and none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(5, 4)
        self.held: list[list[int]] = []
        self.published = 0

    @rule(number=st.integers(1, 4))
    def take(self, number: int) -> None:
        if number <= self.pool.free:
            self.held.append([block for _ in range(number) if (block := self.pool.take()) is not None])
            assert len(self.held[-1]) == number

    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        if self.held:
            self.pool.publish(data.draw(st.sampled_from(data.draw(st.sampled_from(self.held)))), b"%d" % self.published)
            self.published += 1

    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        if self.published:
            found = self.pool.beginning([b"%d" % data.draw(st.integers(0, self.published - 1))])
            self.pool.hold(found)
            self.held += [found] if found else []

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.held:
            self.pool.release(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def held_and_free_are_all(self) -> None:
        assert len({block for blocks in self.held for block in blocks}) + self.pool.free == 5


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
