"""The engine: one thread that plans a step, computes it, and hands what came of it to the sender's thread.

It knows no Triton and no transport. A request brings a `Sink`, which takes the pieces of its answer and says whether
anyone still wants it; `Counters` are told what is done at the moment it is done.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .blocks import BlockPool
from .parameters import BadRequest, Parameters
from .requests import Counters, Piece, Request, Sink, new_request
from .scheduler import Scheduler, Work
from .sender import Sender
from .transformer import Chunk
from .weights import Floats
from .writing import Names, advance, nothing

POLL_STEPS = 4
"""A request that writes is asked every so many steps whether it was cancelled: the question crosses to the server's
process and back, which costs as much as sending a token does. One that reads its prompt is asked at every step."""
WAITING_POLL_STEPS = 32
"""One that waits holds nothing that others need, and there may be hundreds of them."""


class Vocabulary(Names, Protocol):
    """Text to tokens and back."""

    longest: int
    """Most bytes of text that one token stands for."""

    def encode(self, text: str) -> list[int]: ...


class Model(Protocol):
    """What the engine asks of a language model."""

    def forward(self, chunks: Sequence[Chunk]) -> Floats:
        """Logits after the last token of each chunk, [chunks, vocabulary]."""


class QueueFull(Exception):
    """The engine has as many waiting requests as it may have."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The engine's sizes. The names are vLLM's where it has them."""

    token_ms: float = 0.0
    """The least milliseconds that a step takes."""
    max_model_len: int = 2048
    """Most tokens of a prompt and its answer."""
    max_num_seqs: int = 64
    """Most outputs that run at once."""
    max_queue: int = 256
    """Most outputs that wait."""
    max_step_tokens: int = 192
    """Most tokens computed in a step: prompts are cut into chunks that fit."""
    block_size: int = 16
    """Tokens a block of the KV cache."""
    kv_blocks: int = 1024
    """Blocks of the KV cache: the budget that requests share."""

    def __post_init__(self) -> None:
        if self.kv_blocks * self.block_size < self.max_model_len:
            held = f"{self.kv_blocks} KV blocks of {self.block_size} tokens"
            raise ValueError(f"{held} do not hold one request of {self.max_model_len}")


class Engine:
    """`submit` may be called from any thread; everything else happens in the engine's own."""

    def __init__(
        self,
        model: Model,
        vocabulary: Vocabulary,
        counters: Counters,
        limits: Limits,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_death` is called when one of the engine's threads ends by a fault, its requests being lost. What a single
        request's sink or sampler raises ends that request only."""
        self._model = model
        self._vocabulary = vocabulary
        self._counters = counters
        self._limits = limits
        self._on_death = on_death
        self._scheduler = Scheduler(
            BlockPool(limits.kv_blocks, limits.block_size), limits.max_num_seqs, limits.max_step_tokens
        )
        self._arrived: list[Request] = []
        self._orders = 0
        self._waiting = 0
        """Outputs that wait, as of the last step."""
        self._steps = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._sender = Sender(on_death)
        self._thread = threading.Thread(target=self._live, name="engine", daemon=True)

    def start(self) -> None:
        """Start both threads."""
        self._sender.start()
        self._thread.start()

    def stop(self) -> None:
        """End after the current step; requests that still run are left unanswered."""
        self._stopping.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(timeout=5)
        self._sender.stop()

    def submit(self, prompt: str, parameters: Parameters, sink: Sink) -> None:
        """Queue a request. Raises BadRequest when it can never be served, QueueFull when not now."""
        tokens = self._encode(prompt)
        room = self._limits.max_model_len - len(tokens)
        if parameters.n > self._limits.max_num_seqs:
            raise BadRequest(f"n must not be greater than {self._limits.max_num_seqs}")
        most = room if parameters.max_tokens is None else min(parameters.max_tokens, room)
        with self._changed:
            waiting = self._waiting + sum(request.parameters.n for request in self._arrived)
            if waiting + parameters.n > self._limits.max_queue:
                raise QueueFull(f"the queue is full ({waiting} of {self._limits.max_queue} places are taken)")
            self._arrived.append(new_request(tokens, most, parameters, sink, self._orders))
            self._orders += parameters.n
            self._changed.notify()

    def _encode(self, prompt: str) -> list[int]:
        """The prompt's tokens: at least one, and room for another. Raises BadRequest; without looking at a text whose
        bytes alone say that it is too long, because a megabyte of it would take a second of the caller's thread."""
        context = self._limits.max_model_len
        fewest = -(-len(prompt.encode()) // self._vocabulary.longest)
        if fewest >= context:
            raise _too_long(f"at least {fewest}", context)
        tokens = self._vocabulary.encode(prompt)
        if not tokens:
            raise BadRequest("The prompt is empty")
        if len(tokens) >= context:
            raise _too_long(str(len(tokens)), context)
        return tokens

    def _live(self) -> None:
        ended = False
        try:
            while self._gather():
                due = time.monotonic() + self._limits.token_ms / 1000
                self._step()
                self._stopping.wait(max(0.0, due - time.monotonic()))
            ended = True
        finally:
            if not ended:
                self._on_death()

    def _gather(self) -> bool:
        """Wait for work and take over what has arrived. False when the engine stops."""
        scheduler = self._scheduler
        with self._changed:
            while not (self._arrived or scheduler.running or scheduler.waiting or self._stopping.is_set()):
                self._changed.wait()
            for request in self._arrived:
                scheduler.add(request)
            self._arrived = []
            self._waiting = len(scheduler.waiting)
        return not self._stopping.is_set()

    def _step(self) -> None:
        """Let go what nobody wants, plan, compute, choose, send."""
        scheduler, before = self._scheduler, self._scheduler.preempted
        self._let_go()
        plan = scheduler.plan()
        self._count_admitted()
        for _ in range(scheduler.preempted - before):
            self._counters.preempted()
        self._tell_load()
        if not plan:
            return
        pieces: dict[int, Piece] = {}
        for work, logits in zip(plan, self._model.forward([_chunk(work) for work in plan]), strict=True):
            if (piece := self._advance(work, logits)) is not None:
                pieces[id(work.sequence)] = piece
        self._counters.generated(len(pieces))
        for request in dict.fromkeys(work.sequence.request for work in plan if id(work.sequence) in pieces):
            self._send(request, pieces)
        self._tell_load()

    def _let_go(self) -> None:
        """Forget the requests that have failed, and of those that are due the ones that nobody waits for any more."""
        self._steps += 1
        for request in list(self._scheduler.requests()):
            if request.failed:
                self._fail(request)
            elif self._due(request) and self._cancelled(request):
                self._scheduler.remove(request)
                self._sender.drop(request)

    def _due(self, request: Request) -> bool:
        """Whether a request is to be asked in this step."""
        runs = any(sequence.blocks for sequence in request.sequences)
        # Also one that was preempted, and reads again what it has written.
        reads = any(sequence.blocks and sequence.missing > 1 for sequence in request.sequences)
        every = 1 if reads else POLL_STEPS if runs else WAITING_POLL_STEPS
        # By arrival, not by place in line: that moves with the steps, and some would never be asked.
        return (request.sequences[0].order + self._steps) % every == 0

    def _cancelled(self, request: Request) -> bool:
        """Whether nobody waits for it; a sink that cannot say so fails its request."""
        try:
            return request.sink.cancelled()
        except Exception as problem:  # noqa: BLE001 - a sink is not ours: the others must not suffer for it
            self._fail(request, problem)
            return False

    def _fail(self, request: Request, problem: Exception | None = None) -> None:
        """Let go first: the sink may be asked nothing once it has been told that this is its end."""
        self._scheduler.remove(request)
        self._sender.fail(request, problem)

    def _advance(self, work: Work, logits: Floats) -> Piece | None:
        """The work is computed: the token that follows, if it ended at its sequence's last one. A sampler that raises
        fails its request."""
        sequence, samples = work.sequence, work.samples
        if not sequence.blocks:  # another output of its request has failed in this very step
            return None
        self._scheduler.done(work)
        if not samples:
            return None
        try:
            piece = advance(sequence, logits, self._vocabulary)
        except Exception as problem:  # noqa: BLE001 - its parameters chose this way: the others must not suffer for it
            self._fail(sequence.request, problem)
            return None
        if sequence.finish:
            self._scheduler.finish(sequence)
        return piece

    def _send(self, request: Request, pieces: dict[int, Piece]) -> None:
        last = all(sequence.finish for sequence in request.sequences)
        parts = [pieces.get(id(sequence)) or nothing(sequence) for sequence in request.sequences]
        self._sender.send(request, parts, last)

    def _count_admitted(self) -> None:
        for sequence, cached in self._scheduler.admitted:
            if not sequence.request.counted:  # not its other outputs, nor itself when it comes back
                sequence.request.counted = True
                sequence.request.cached_tokens = cached
                self._counters.prompt(sequence.request.prompt_tokens, cached)

    def _tell_load(self) -> None:
        scheduler = self._scheduler
        self._waiting = len(scheduler.waiting)
        self._counters.load(len(scheduler.running), len(scheduler.waiting), scheduler.usage)


def _too_long(tokens: str, context: int) -> BadRequest:
    return BadRequest(
        f"The prompt is {tokens} tokens long; with at least one token to generate, the model's context of {context} "
        "tokens does not hold it"
    )


def _chunk(work: Work) -> Chunk:
    sequence = work.sequence
    end = sequence.computed + work.tokens
    return Chunk(sequence.tokens[sequence.computed : end], sequence.computed, sequence.blocks)
