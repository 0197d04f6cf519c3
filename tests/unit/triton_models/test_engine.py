"""The engine: many requests, one thread, one token each a step."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pytest
from tinyllm.engine import POLL_STEPS, Engine, Limits, QueueFull
from tinyllm.parameters import BadRequest, Parameters
from tinyllm.requests import Piece, PromptTokens
from tinyllm.transformer import Chunk
from tinyllm.weights import Floats

from tests.unit.triton_models.engine_parts import WAIT_S, Count, Letters, Reply, Script

Make = Callable[..., tuple[Engine, Count]]


@pytest.fixture
def make() -> Iterator[Make]:
    engines: list[Engine] = []

    def build(model: Script, token_ms: float = 0, **options: int) -> tuple[Engine, Count]:
        count = Count()
        engine = Engine(model, Letters(), count, Limits(token_ms=token_ms, **options))
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


class Pairs(Letters):
    """Up to two bytes a token, and a count of the texts that were tokenized."""

    longest = 2
    encoded = 0

    def encode(self, text: str) -> list[int]:
        self.encoded += 1
        return list(text.encode()[::2])


@pytest.mark.parametrize(
    ("prompt", "told", "encoded"),
    [("x" * 23, "is at least 12 tokens", 0), ("é" * 2_000_000, "is at least 2000000 tokens", 0), ("x" * 22, None, 1)],
)
def test_a_prompt_whose_bytes_alone_are_too_many_is_refused_without_a_look_at_its_tokens(
    prompt: str, told: str | None, encoded: int
) -> None:
    vocabulary = Pairs()
    engine = Engine(Script(), vocabulary, Count(), Limits(max_model_len=12))
    if told is None:
        engine.submit(prompt, Parameters(), Reply())
    else:
        with pytest.raises(BadRequest, match=told):
            engine.submit(prompt, Parameters(), Reply())
    assert vocabulary.encoded == encoded


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
    assert max(running for running, _, _ in count.loads) <= 3


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
    engine.submit("?", Parameters(max_tokens=60, n=4, seed=3, stop=tuple("ABCDEFGHIJKLM"), logprobs=0), reply)
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
        def forward(self, chunks: Sequence[Chunk]) -> Floats:
            raise RuntimeError("broken")

    died = threading.Event()
    engine = Engine(Broken(), Letters(), Count(), Limits(), on_death=died.set)
    engine.start()
    engine.submit("?", Parameters(), Reply())
    assert died.wait(WAIT_S)
    engine.stop()


def test_a_slow_receiver_does_not_hold_up_the_others(make: Make) -> None:
    class Slow(Reply):
        def __init__(self) -> None:
            super().__init__()
            self.go = threading.Event()

        def send(self, prompt: PromptTokens, pieces: list[Piece], last: bool) -> None:
            assert self.go.wait(WAIT_S)
            super().send(prompt, pieces, last)

    engine, count = make(Script())
    slow, quick = Slow(), Reply()
    engine.submit("?", Parameters(max_tokens=3, temperature=0), slow)
    engine.submit("?", Parameters(max_tokens=30, temperature=0), quick)
    until(lambda: count.tokens == 33)
    slow.go.set()
    assert (slow.text(), len(quick.text())) == ("abc", 30)


def test_a_long_prompt_is_read_in_chunks_while_others_go_on_writing(make: Make) -> None:
    model = Script()
    model.gated = True
    engine, _ = make(model, max_num_seqs=4, max_step_tokens=40)
    writer, reader = Reply(), Reply()
    engine.submit("?", Parameters(max_tokens=20, temperature=0), writer)
    model.gate.release()
    until(lambda: len(writer.steps) == 1)
    engine.submit("x" * 150, Parameters(max_tokens=1, temperature=0), reader)
    model.gate.release(19)
    assert writer.text() == "abcdefghijklmnopqrst"
    assert reader.done.wait(WAIT_S)
    assert [step for step in model.steps if len(step) == 2] == [[1, 39], [1, 36], [1, 33], [1, 31], [1, 11]]


def test_a_request_that_is_cancelled_while_its_prompt_is_read_stops_at_the_next_chunk(make: Make) -> None:
    model = Script()
    model.gated = True
    engine, count = make(model, max_num_seqs=4, max_step_tokens=16)
    reply = Reply()
    engine.submit("x" * 1000, Parameters(max_tokens=5), reply)
    model.gate.release(2)
    until(lambda: len(model.steps) == 2)
    reply.gone = True
    model.gate.release()
    assert reply.dropped.wait(WAIT_S)
    assert len(model.steps) == 3
    assert count.tokens == 0
    until(lambda: count.loads[-1] == (0, 0, 0.0))


def test_everyone_is_asked_every_few_steps_however_many_come_and_go(make: Make) -> None:
    engine, _ = make(Script(), token_ms=1, max_num_seqs=64)
    replies = [Reply() for _ in range(60)]
    for reply in replies:
        engine.submit("?", Parameters(max_tokens=40, temperature=0), reply)
        until(partial(bool, reply.steps))
    assert all(reply.done.wait(WAIT_S) for reply in replies)
    assert min(reply.asked for reply in replies) >= 40 // POLL_STEPS - 1


def test_a_request_that_is_cancelled_while_it_waits_is_never_begun(make: Make) -> None:
    engine, count = make(Script(), token_ms=1, max_num_seqs=1)
    first, second = Reply(), Reply()
    engine.submit("?", Parameters(max_tokens=60, temperature=0), first)
    engine.submit("?", Parameters(max_tokens=60, temperature=0), second)
    second.gone = True
    assert second.dropped.wait(WAIT_S)
    assert len(first.text()) == 60
    assert (count.prompt_tokens, count.tokens) == (1, 60)


def test_a_prompt_that_was_read_before_comes_from_the_cache(make: Make) -> None:
    engine, count = make(Script(prompt=100))
    replies = [Reply(), Reply()]
    for reply in replies:
        engine.submit("x" * 100, Parameters(max_tokens=20, temperature=0), reply)
        assert reply.text() == "abcdefghijklmnopqrst"
    assert [reply.cached_tokens for reply in replies] == [0, 96]
    assert (count.prompt_tokens, count.cached) == (200, 96)


def test_the_cache_serves_a_chat_that_goes_on_from_an_answer(make: Make) -> None:
    engine, count = make(Script(prompt=60))
    first, second = Reply(), Reply()
    engine.submit("x" * 60, Parameters(max_tokens=20, temperature=0), first)
    engine.submit("x" * 60 + first.text() + "y" * 20, Parameters(max_tokens=1, temperature=0), second)
    assert second.done.wait(WAIT_S)
    assert count.cached == 64  # four blocks: the prompt and four tokens of the answer


def test_an_empty_prompt_is_refused(make: Make) -> None:
    engine, _ = make(Script())
    with pytest.raises(BadRequest, match="empty"):
        engine.submit("", Parameters(), Reply())


def test_a_cache_that_cannot_hold_one_request_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="do not hold one request of 2048"):
        Limits(kv_blocks=100, block_size=16, max_model_len=2048)


def until(condition: Callable[[], bool]) -> None:
    """Ask again and again, for what sends no event."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
