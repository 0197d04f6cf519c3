"""Who computes what in the next step. Pure book-keeping: no model, no thread, no clock.

In each step every running output gets its next token computed, and what is left of the step's budget goes to prompts,
a chunk at a time, so that one long prompt does not hold up the others. When the blocks run out, the output that came
last gives up its own and waits again, at the head of the queue; its tokens stay, and their keys and values are computed
anew when it is let in.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from .blocks import ROOT, BlockPool, chain
from .requests import Request, Sequence


@dataclass(frozen=True, slots=True)
class Work:
    """What one sequence computes in a step: `tokens` of its tokens, after those that it has computed."""

    sequence: Sequence
    tokens: int

    @property
    def samples(self) -> bool:
        """Whether the step ends at the sequence's last token, so that the next one can be chosen."""
        return self.sequence.computed + self.tokens == len(self.sequence.tokens)


ATTENTION = 400
"""Positions that cost as much to attend to as the rest of the model costs for one token (measured: 0.08 ms a token, and
0.2 ms for each 1,000 positions before it)."""


class Scheduler:
    """Waiting and running sequences and their blocks. Not for several threads."""

    def __init__(self, pool: BlockPool, max_num_seqs: int, max_step_tokens: int) -> None:
        """At most `max_num_seqs` sequences run, and a step computes at most `max_step_tokens` tokens: more than those,
        or prompts would wait for as long as all places are taken."""
        if max_step_tokens <= max_num_seqs:
            raise ValueError(f"max_step_tokens ({max_step_tokens}) must be greater than max_num_seqs ({max_num_seqs})")
        self._pool = pool
        self._max_num_seqs = max_num_seqs
        self._max_step_tokens = max_step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preempted = 0
        """How often a sequence had to give up its blocks."""
        self.admitted: list[tuple[Sequence, int]] = []
        """Sequences let in by the last `plan`, each with the tokens that the prefix cache spared it."""

    @property
    def usage(self) -> float:
        """Share of the blocks that are held, 0 to 1."""
        return self._pool.usage

    def add(self, request: Request) -> None:
        """Put a new request's outputs at the end of the queue."""
        self.waiting.extend(request.sequences)

    def remove(self, request: Request) -> None:
        """Forget a request that nobody wants any more."""
        for sequence in request.sequences:
            if sequence in self.running:
                self.finish(sequence)
            elif sequence in self.waiting:
                self.waiting.remove(sequence)

    def finish(self, sequence: Sequence) -> None:
        """A running sequence has its last token."""
        self.running.remove(sequence)
        self._give_up_blocks(sequence)

    def requests(self) -> Iterator[Request]:
        """Every request in here, once."""
        yield from dict.fromkeys(sequence.request for sequence in (*self.running, *self.waiting))

    def plan(self) -> list[Work]:
        """The next step: each piece of work has its blocks. Empty only when nothing waits or runs."""
        self.admitted = []
        plan: list[Work] = []
        preempted = self.preempted
        # Single tokens first, oldest first: nobody who already writes waits for a prompt.
        for sequence in sorted(self.running, key=lambda one: (len(one.tokens) - one.computed > 1, one.order)):
            if sequence in self.running:  # it may have been preempted for an older one
                self._schedule(sequence, plan)
        plan = [work for work in plan if work.sequence in self.running]
        # Where one had to yield, nobody new is let in: he would be the next to yield.
        while self.preempted == preempted and self._admit_next():
            self._schedule(self.running[-1], plan)
        return plan

    def done(self, work: Work) -> None:
        """The work's keys and values are computed; the blocks that it filled can be used by others from now on."""
        sequence = work.sequence
        before = sequence.computed // self._pool.block_size
        sequence.computed += work.tokens
        hashes = self._hashes(sequence, sequence.computed)
        for index in range(before, len(hashes)):
            self._pool.publish(sequence.blocks[index], hashes[index])

    def _schedule(self, sequence: Sequence, plan: list[Work]) -> None:
        left = self._max_step_tokens - sum(work.tokens for work in plan)
        tokens = 1 if sequence.missing == 1 else min(sequence.missing, left, self._longest_chunk(sequence.computed))
        if tokens > 0 and self._grow(sequence, sequence.computed + tokens):
            plan.append(Work(sequence, tokens))

    def _longest_chunk(self, position: int) -> int:
        """Chunks get shorter further back in a prompt, where each token attends to more: nothing can stop a step once
        it has begun, so none may take long."""
        return max(1, self._max_step_tokens * ATTENTION // (ATTENTION + position))

    def _grow(self, sequence: Sequence, tokens: int) -> bool:
        """Take the blocks for so many tokens, if need be from those who came later; False when it lost its own."""
        while len(sequence.blocks) < self._pool.blocks_for(tokens):
            block = self._pool.take()
            if block is not None:
                sequence.blocks.append(block)
                continue
            latest = max(self.running, key=lambda one: one.order)
            self._preempt(latest)
            if latest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._give_up_blocks(sequence)
        self.waiting.appendleft(sequence)
        self.preempted += 1

    def _admit_next(self) -> bool:
        """Let the head of the queue in when there is a place, and blocks for all of its tokens and the next one."""
        if not self.waiting or len(self.running) >= self._max_num_seqs or self._prefilling():
            return False
        sequence = self.waiting[0]
        # The last token is always computed: its logits choose the next one.
        known = self._pool.beginning(self._hashes(sequence, len(sequence.tokens) - 1))
        self._pool.hold(known)
        if self._pool.free < self._pool.blocks_for(len(sequence.tokens) + 1) - len(known):
            self._pool.release(known)
            return False
        self.waiting.popleft()
        sequence.blocks, sequence.computed = known, len(known) * self._pool.block_size
        self._grow(sequence, len(sequence.tokens))
        self.running.append(sequence)
        self.admitted.append((sequence, sequence.computed))
        return True

    def _prefilling(self) -> bool:
        """Whether some prompt already takes all of the next steps' budget."""
        missing = sum(len(one.tokens) - one.computed for one in self.running)
        return missing - len(self.running) >= self._max_step_tokens

    def _give_up_blocks(self, sequence: Sequence) -> None:
        self._pool.release(sequence.blocks)
        sequence.blocks, sequence.computed = [], 0

    def _hashes(self, sequence: Sequence, tokens: int) -> list[bytes]:
        """The chained hashes of the full blocks among the first `tokens` tokens."""
        size = self._pool.block_size
        full = tokens // size
        for index in range(len(sequence.hashes), full):
            before = sequence.hashes[-1] if sequence.hashes else ROOT
            sequence.hashes.append(chain(before, sequence.tokens[index * size : (index + 1) * size]))
        return sequence.hashes[:full]
