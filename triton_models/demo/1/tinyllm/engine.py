"""The engine: one thread that steps all running requests in turn, a token each, from a bounded queue.

It knows no Triton and no transport. A request brings a `Sink`, which takes the pieces of its answer and says whether
anyone still wants it; `Counters` are told what is done at the moment it is done.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from .parameters import BadRequest, Parameters
from .sampling import Probabilities, choose, logprobs
from .text import OutputText

Finish = Literal["stop", "length"]
POLL_STEPS = 4
"""A request is asked every so many steps whether it was cancelled: the question crosses to the server's process and
back, which costs as much as sending a token does."""


class Model(Protocol):
    """What the engine asks of a language model."""

    vocabulary: int
    end: int

    def encode(self, text: str) -> list[int]: ...
    def token_bytes(self, token: int) -> bytes: ...
    def next(self, sequences: Sequence[Sequence[int]]) -> Sequence[Probabilities]: ...


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token in a list of alternatives."""

    logprob: float
    rank: int
    decoded_token: str


@dataclass(slots=True)
class Piece:
    """What one step added to one output of a request."""

    text: str = ""
    tokens: int = 0
    logprobs: list[dict[int, TokenLogprob]] | None = None
    """One object a token; None when none were asked for."""
    cumulative_logprob: float = 0.0
    """Of the whole output so far."""
    finish: Finish | None = None

    def add(self, later: "Piece") -> None:
        """Append a later piece of the same output."""
        self.text += later.text
        self.tokens += later.tokens
        self.cumulative_logprob = later.cumulative_logprob
        self.finish = later.finish
        if later.logprobs is not None:
            self.logprobs = (self.logprobs or []) + later.logprobs


class Sink(Protocol):
    """Where a request's answer goes. All calls come from the engine's thread."""

    def cancelled(self) -> bool: ...
    def send(self, prompt_tokens: int, pieces: list[Piece], last: bool) -> None:
        """One step: a piece for each of the request's n outputs; `last` when all of them have finished."""

    def drop(self) -> None:
        """The request was cancelled; nothing more comes."""


class Counters(Protocol):
    """Told at once: a token is counted when it is generated, not when it is sent."""

    def prompt(self, tokens: int) -> None: ...
    def generated(self, tokens: int) -> None: ...
    def load(self, running: int, waiting: int) -> None: ...


class QueueFull(Exception):
    """The engine has as many waiting requests as it may have."""


@dataclass(slots=True)
class _Output:
    """One of a request's n outputs."""

    tokens: list[int]
    text: OutputText
    generator: np.random.Generator
    counts: Counter[int] = field(default_factory=Counter)
    generated: int = 0
    cumulative_logprob: float = 0.0
    finish: Finish | None = None


@dataclass(slots=True)
class _Request:
    prompt_tokens: int
    most_tokens: int
    parameters: Parameters
    sink: Sink
    outputs: list[_Output]
    steps: int = 0


class Engine:
    """`submit` may be called from any thread; everything else happens in the engine's own."""

    def __init__(
        self,
        model: Model,
        counters: Counters,
        *,
        token_ms: float = 2.0,
        max_model_len: int = 2048,
        max_num_seqs: int = 64,
        max_queue: int = 256,
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        """A step takes at least `token_ms` milliseconds; at most `max_num_seqs` outputs run at once and `max_queue`
        requests wait; `on_death` is called when the engine's thread ends by a fault, its requests being lost."""
        self._model = model
        self._counters = counters
        self._pace_s = token_ms / 1000
        self._max_model_len = max_model_len
        self._max_num_seqs = max_num_seqs
        self._max_queue = max_queue
        self._on_death = on_death
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._live, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step; requests that still run are left unanswered."""
        self._stopping.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(timeout=5)

    def submit(self, prompt: str, parameters: Parameters, sink: Sink) -> None:
        """Queue a request. Raises BadRequest when it can never be served, QueueFull when not now."""
        tokens = self._model.encode(prompt)
        room = self._max_model_len - len(tokens)
        if room < 1:
            raise BadRequest(
                f"The prompt is {len(tokens)} tokens long; with at least one token to generate, the model's context "
                f"of {self._max_model_len} tokens does not hold it"
            )
        if parameters.n > self._max_num_seqs:
            raise BadRequest(f"n must not be greater than {self._max_num_seqs}")
        most = room if parameters.max_tokens is None else min(parameters.max_tokens, room)
        outputs = [_new_output(tokens, parameters, index) for index in range(parameters.n)]
        with self._changed:
            if len(self._waiting) >= self._max_queue:
                raise QueueFull(f"the queue is full ({self._max_queue} requests wait)")
            self._waiting.append(_Request(len(tokens), most, parameters, sink, outputs))
            self._changed.notify()

    def _live(self) -> None:
        ended = False
        try:
            while self._gather():
                due = time.monotonic() + self._pace_s
                self._step()
                self._stopping.wait(max(0.0, due - time.monotonic()))
            ended = True
        finally:
            if not ended:
                self._on_death()

    def _gather(self) -> bool:
        """Wait for work, and let waiting requests in while there is room. False when the engine stops."""
        with self._changed:
            if not self._running and not self._waiting:
                self._counters.load(0, 0)
                self._changed.wait_for(lambda: self._waiting or self._stopping.is_set())
            taken = sum(len(request.outputs) for request in self._running)
            while self._waiting and taken + len(self._waiting[0].outputs) <= self._max_num_seqs:
                request = self._waiting.popleft()
                taken += len(request.outputs)
                self._running.append(request)
                self._counters.prompt(request.prompt_tokens)
            waiting = len(self._waiting)
        self._counters.load(len(self._running), waiting)
        return not self._stopping.is_set()

    def _step(self) -> None:
        """One token for each unfinished output of each request that is still wanted."""
        self._running = [request for request in self._running if not _dropped(request)]
        live = [(r, output) for r in self._running for output in r.outputs if output.finish is None]
        if not live:
            return
        distributions = self._model.next([output.tokens for _, output in live])
        pieces: dict[int, Piece] = {}
        for (request, output), distribution in zip(live, distributions, strict=True):
            pieces[id(output)] = self._advance(request, output, distribution)
        self._counters.generated(len(live))
        self._running = [request for request in self._running if not _sent(request, pieces)]

    def _advance(self, request: _Request, output: _Output, distribution: Probabilities) -> Piece:
        parameters, end = request.parameters, self._model.end
        early = output.generated < parameters.min_tokens
        banned = end if parameters.ignore_eos or early else None
        token = choose(distribution, parameters, output.counts, output.generator, banned)
        told = logprobs(distribution, token, parameters.logprobs or 0)
        output.tokens.append(token)
        output.counts[token] += 1
        output.generated += 1
        output.cumulative_logprob += told[token][0]
        text = output.text.feed(self._model.token_bytes(token), check_stop=output.generated >= parameters.min_tokens)
        if token == end or output.text.stopped:
            output.finish = "stop"
        elif output.generated >= request.most_tokens:
            output.finish = "length"
        if output.finish:
            text += output.text.finish()
        names = None if parameters.logprobs is None else [self._named(told)]
        return Piece(text, 1, names, output.cumulative_logprob, output.finish)

    def _named(self, told: dict[int, tuple[float, int]]) -> dict[int, TokenLogprob]:
        return {token: TokenLogprob(logprob, rank, self._name(token)) for token, (logprob, rank) in told.items()}

    def _name(self, token: int) -> str:
        return "<|end|>" if token == self._model.end else self._model.token_bytes(token).decode(errors="replace")


def _new_output(tokens: list[int], parameters: Parameters, index: int) -> _Output:
    # Outputs of one seeded request must differ from each other, and be the same in the next run.
    seed = None if parameters.seed is None else [parameters.seed % (1 << 64), index]
    return _Output(list(tokens), OutputText(parameters.stop), np.random.default_rng(seed))


def _dropped(request: _Request) -> bool:
    request.steps += 1
    if request.steps % POLL_STEPS != 1 or not request.sink.cancelled():
        return False
    request.sink.drop()
    return True


def _sent(request: _Request, pieces: dict[int, Piece]) -> bool:
    """Send one request's step; whether that was its last."""
    last = all(output.finish for output in request.outputs)
    # An output that finished before the others stands in every later step with nothing added, as in vLLM.
    parts = [pieces.get(id(o)) or Piece("", 0, _none(request), o.cumulative_logprob, o.finish) for o in request.outputs]
    request.sink.send(request.prompt_tokens, parts, last)
    return last


def _none(request: _Request) -> list[dict[int, TokenLogprob]] | None:
    return None if request.parameters.logprobs is None else []
