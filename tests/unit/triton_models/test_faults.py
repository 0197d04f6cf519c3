"""What one request's own parts raise ends that request with an error: nobody else's answer, and never the engine."""

import threading
from collections.abc import Iterator

import pytest
from tinyllm import writing
from tinyllm.engine import Engine, Limits
from tinyllm.parameters import Parameters
from tinyllm.requests import Piece, PromptTokens, new_request
from tinyllm.sampling import choose
from tinyllm.sender import Sender

from tests.unit.triton_models.engine_parts import WAIT_S, Count, Letters, Reply, Script

GREEDY = Parameters(max_tokens=20, temperature=0)
SECRET = "the words of a prompt"


class Faulty(Reply):
    """A sink that raises where it is told to; `at` counts the steps that it has taken before."""

    def __init__(self, where: str, at: int = 0) -> None:
        super().__init__()
        self.where = where
        self.asked_late = False
        """Asked after its end: what crashes Triton's server."""
        self.raises = {where, "send"} if where == "fail" else {where}  # something must go wrong before `fail` is called
        self.at = at

    def cancelled(self) -> bool:
        self.asked_late |= self.failed.is_set()
        return self._or_raise("cancelled", super().cancelled())

    def send(self, prompt: PromptTokens, pieces: list[Piece], last: bool) -> None:
        self._or_raise("send", False)
        super().send(prompt, pieces, last)

    def drop(self) -> None:
        self._or_raise("drop", False)

    def fail(self) -> None:
        super().fail()
        if self.where == "fail":
            raise RuntimeError(SECRET)

    def _or_raise(self, here: str, value: bool) -> bool:
        if here in self.raises and len(self.steps) >= self.at:
            raise RuntimeError(SECRET)
        return value


class House:
    """A running engine, and whether it has died."""

    def __init__(self) -> None:
        self.died = threading.Event()
        self.count = Count()
        self.engine = Engine(Script(), Letters(), self.count, Limits(token_ms=1), on_death=self.died.set)
        self.engine.start()

    def ask(self, sink: Reply, parameters: Parameters = GREEDY) -> None:
        self.engine.submit("?", parameters, sink)

    def lives(self) -> bool:
        """Whether it holds nothing any more, and answers."""
        after = Reply()
        self.ask(after)
        return after.text() == "abcdefghijklmnopqrst" and not self.died.is_set()


@pytest.fixture
def house() -> Iterator[House]:
    made = House()
    yield made
    made.engine.stop()
    assert made.count.loads[-1] == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("where", "at"), [("cancelled", 0), ("cancelled", 3), ("send", 0), ("send", 3), ("send", 19), ("fail", 0)]
)
def test_a_sink_that_raises_ends_its_own_request_and_no_other(house: House, where: str, at: int) -> None:
    faulty, beside = Faulty(where, at), Reply()
    house.ask(faulty)
    house.ask(beside)
    assert faulty.failed.wait(WAIT_S)
    assert beside.text() == "abcdefghijklmnopqrst"
    assert house.lives()
    assert (faulty.failures, faulty.done.is_set(), len(faulty.steps) >= at) == (1, False, True)
    assert at == 19 or house.count.tokens < 60  # it did not go on to its end
    assert not faulty.asked_late


def test_a_sink_that_raises_when_it_is_dropped_harms_nobody(house: House) -> None:
    faulty = Faulty("drop")
    faulty.gone = True
    house.ask(faulty)
    assert faulty.failed.wait(WAIT_S)
    assert house.lives()


def test_a_sampler_that_raises_for_one_output_ends_its_request_behind_what_was_sent(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(weights, parameters, counts, generator, banned=None):  # type: ignore[no-untyped-def]
        if parameters.n == 3 and counts.total() == 4:
            raise FloatingPointError(SECRET)
        return choose(weights, parameters, counts, generator, banned)

    monkeypatch.setattr(writing, "choose", broken)
    odd, beside = Reply(), Reply()
    house.ask(odd, Parameters(max_tokens=20, n=3, seed=1))
    house.ask(beside)
    assert odd.failed.wait(WAIT_S)
    assert beside.text() == "abcdefghijklmnopqrst"
    assert house.lives()
    assert [[piece.tokens for piece in step] for step in odd.steps] == [[1, 1, 1]] * 4
    assert (odd.failures, odd.done.is_set(), odd.dropped.is_set()) == (1, False, False)


def test_the_log_says_what_failed_and_where_and_none_of_the_words(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = Faulty("send")
    house.ask(faulty)
    assert faulty.failed.wait(WAIT_S)
    (said,) = caplog.messages
    assert "RuntimeError" in said
    assert "_or_raise" in said
    assert SECRET not in said


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_sender_that_fails_by_itself_says_so() -> None:
    class Exit(Reply):
        def send(self, prompt: PromptTokens, pieces: list[Piece], last: bool) -> None:
            raise KeyboardInterrupt  # no fault of a request: something wants this thread to end

    died = threading.Event()
    sender = Sender(died.set)
    sender.start()
    sender.send(new_request([1], 1, GREEDY, Exit(), 0), [], True)
    assert died.wait(WAIT_S)
    sender.stop()
