"""The engine: many requests, one thread, one token each a step."""

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from tinyllm.engine import Engine, Piece, QueueFull
from tinyllm.parameters import BadRequest, Parameters
from tinyllm.sampling import Probabilities

END = 256
WAIT_S = 10.0


class Script:
    """A model that writes the alphabet over and over, and END after `length` letters."""

    vocabulary = 257
    end = END

    def __init__(self, length: int = 10_000) -> None:
        self.length = length
        self.gate = threading.Semaphore(0)
        self.gated = False

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token: int) -> bytes:
        return b"" if token == END else bytes((token,))

    def next(self, sequences: Sequence[Sequence[int]]) -> list[Probabilities]:
        if self.gated:
            assert self.gate.acquire(timeout=WAIT_S)
        return [self._one(sequence) for sequence in sequences]

    def _one(self, sequence: Sequence[int]) -> Probabilities:
        written = len(sequence) - 1  # every prompt here has one byte
        result = np.zeros(257)
        result[END if written >= self.length else ord("a") + written % 26] = 0.9
        result[ord("z") if written % 26 != 25 else ord("y")] += 0.1
        return result


class Reply:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.steps: list[list[Piece]] = []
        self.prompt_tokens = 0
        self.gone = False
        self.dropped = threading.Event()
        self.done = threading.Event()

    def cancelled(self) -> bool:
        return self.gone

    def send(self, prompt_tokens: int, pieces: list[Piece], last: bool) -> None:
        self.prompt_tokens = prompt_tokens
        self.steps.append(pieces)
        if last:
            self.done.set()

    def drop(self) -> None:
        self.dropped.set()

    def text(self, index: int = 0) -> str:
        assert self.done.wait(WAIT_S)
        return "".join(step[index].text for step in self.steps)


class Count:
    """Counters in memory."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.tokens = 0
        self.loads: list[tuple[int, int]] = []

    def prompt(self, tokens: int) -> None:
        self.prompt_tokens += tokens

    def generated(self, tokens: int) -> None:
        self.tokens += tokens

    def load(self, running: int, waiting: int) -> None:
        self.loads.append((running, waiting))


Make = Callable[..., tuple[Engine, Count]]


@pytest.fixture
def make() -> Iterator[Make]:
    engines: list[Engine] = []

    def build(model: Script, token_ms: float = 0, **options: int) -> tuple[Engine, Count]:
        count = Count()
        engine = Engine(model, count, token_ms=token_ms, **options)  # type: ignore[arg-type]
        engine.start()
        engines.append(engine)
        return engine, count

    yield build
    for engine in engines:
        engine.stop()


def test_an_output_ends_with_its_length(make: Make) -> None:
    engine, count = make(Script())
    reply = Reply()
    engine.submit("?", Parameters(max_tokens=5, temperature=0), reply)
    assert reply.text() == "abcde"
    assert [step[0].finish for step in reply.steps] == [None] * 4 + ["length"]
    assert [step[0].tokens for step in reply.steps] == [1] * 5
    assert (reply.prompt_tokens, count.prompt_tokens, count.tokens) == (1, 1, 5)


def test_the_end_token_is_counted_but_not_written(make: Make) -> None:
    engine, _ = make(Script(length=3))
    reply = Reply()
    engine.submit("?", Parameters(max_tokens=50, temperature=0), reply)
    assert reply.text() == "abc"
    assert sum(step[0].tokens for step in reply.steps) == 4
    assert reply.steps[-1][0].finish == "stop"


def test_a_stop_string_across_tokens_ends_the_output_before_it(make: Make) -> None:
    engine, _ = make(Script())
    reply = Reply()
    engine.submit("?", Parameters(max_tokens=50, temperature=0, stop=("efg",)), reply)
    assert reply.text() == "abcd"
    assert reply.steps[-1][0].finish == "stop"
    assert len(reply.steps) == 7


def test_min_tokens_holds_off_the_end_and_the_stop_strings(make: Make) -> None:
    engine, _ = make(Script(length=3))
    reply = Reply()
    engine.submit("?", Parameters(max_tokens=8, min_tokens=6, temperature=0, stop=("b",)), reply)
    text = reply.text()
    assert text.startswith("ab")
    assert len(reply.steps) >= 6


def test_without_max_tokens_the_context_is_the_limit(make: Make) -> None:
    engine, _ = make(Script(), max_model_len=12)
    reply = Reply()
    engine.submit("?", Parameters(max_tokens=None, temperature=0), reply)
    assert len(reply.text()) == 11
    assert reply.steps[-1][0].finish == "length"


def test_a_prompt_longer_than_the_context_is_refused(make: Make) -> None:
    engine, _ = make(Script(), max_model_len=12)
    with pytest.raises(BadRequest, match="12 tokens"):
        engine.submit("x" * 12, Parameters(), Reply())


def test_a_full_queue_refuses(make: Make) -> None:
    model = Script()
    model.gated = True
    engine, _ = make(model, max_num_seqs=1, max_queue=1)
    first, second = Reply(), Reply()
    engine.submit("?", Parameters(max_tokens=1), first)
    model.gate.release()
    assert first.done.wait(WAIT_S)
    blocker = Reply()
    engine.submit("?", Parameters(max_tokens=2), blocker)
    model.gate.release()
    while not blocker.steps:  # the engine has let it in: the queue is empty
        assert not blocker.done.wait(0.001)
    engine.submit("?", Parameters(max_tokens=1), second)
    with pytest.raises(QueueFull):
        engine.submit("?", Parameters(), Reply())
    model.gate.release()
    model.gate.release()
    assert second.done.wait(WAIT_S)


def test_more_requests_than_places_all_finish(make: Make) -> None:
    engine, count = make(Script(), max_num_seqs=3)
    replies = [Reply() for _ in range(20)]
    for reply in replies:
        engine.submit("?", Parameters(max_tokens=10, temperature=0), reply)
    assert [reply.text() for reply in replies] == ["abcdefghij"] * 20
    assert count.tokens == 200
    assert max(running for running, _ in count.loads) <= 3


def test_a_cancelled_request_generates_no_further(make: Make) -> None:
    engine, count = make(Script(), token_ms=1)
    reply = Reply()
    engine.submit("?", Parameters(max_tokens=None, temperature=0), reply)
    while len(reply.steps) < 5:
        assert not reply.done.wait(0.001)
    sent = len(reply.steps)
    reply.gone = True
    assert reply.dropped.wait(WAIT_S)
    assert count.tokens <= sent + 10
    assert not reply.done.is_set()


def test_outputs_of_one_request_differ_and_repeat_with_the_seed(make: Make) -> None:
    engine, _ = make(Script())
    runs = []
    for _ in range(2):
        reply = Reply()
        engine.submit("?", Parameters(max_tokens=40, n=3, seed=5), reply)
        runs.append([reply.text(index) for index in range(3)])
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 3


def test_an_output_that_finished_early_stands_empty_beside_the_others(make: Make) -> None:
    engine, count = make(Script())
    reply = Reply()
    engine.submit("?", Parameters(max_tokens=60, n=4, seed=3, stop=("z",), logprobs=0), reply)
    assert reply.done.wait(WAIT_S)
    ends = [next(i for i, step in enumerate(reply.steps) if step[index].finish) for index in range(4)]
    assert len(set(ends)) > 1
    early = ends.index(min(ends))
    assert all((s[early].text, s[early].tokens, s[early].logprobs) == ("", 0, []) for s in reply.steps[min(ends) + 1 :])
    assert count.tokens == sum(end + 1 for end in ends)


def test_logprobs_come_one_object_a_token_and_add_up(make: Make) -> None:
    engine, _ = make(Script())
    reply = Reply()
    engine.submit("?", Parameters(max_tokens=3, temperature=0, logprobs=1), reply)
    assert reply.text() == "abc"
    for step in reply.steps:
        (alternatives,) = step[0].logprobs or []
        (told,) = alternatives.values()
        assert told.rank == 1
        assert told.logprob == pytest.approx(np.log(0.9))
    assert reply.steps[-1][0].cumulative_logprob == pytest.approx(3 * np.log(0.9))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_that_fails_says_so() -> None:
    class Broken(Script):
        def next(self, sequences: Sequence[Sequence[int]]) -> list[Probabilities]:
            raise RuntimeError("broken")

    died = threading.Event()
    engine = Engine(Broken(), Count(), token_ms=0, on_death=died.set)
    engine.start()
    engine.submit("?", Parameters(), Reply())
    assert died.wait(WAIT_S)
    engine.stop()
