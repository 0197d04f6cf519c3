"""The engine that Triton runs, asked directly: an answer to each prompt, and how many hold a cat's words."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tinyllm.engine import Engine, Limits
from tinyllm.parameters import Parameters
from tinyllm.requests import Piece, PromptTokens
from tinyllm.tokenizer import Vocabulary
from tinyllm.transformer import Transformer
from tinyllm.weights import read_weights

from .corpus import prompt
from .grammar import cat_words, read_lexicon
from .heldout import HeldOut

SHORT_WORDS = 2


@dataclass(slots=True)
class Answer:
    """A sink that keeps the text."""

    text: str = ""
    tokens: int = 0
    finish: str | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def cancelled(self) -> bool:
        """Never."""
        return False

    def send(self, prompt: PromptTokens, pieces: list[Piece], last: bool) -> None:
        """See Sink."""
        self.text += pieces[0].text
        self.tokens += pieces[0].tokens
        self.finish = pieces[0].finish
        if last:
            self.done.set()

    def drop(self) -> None:
        """Never called."""

    def fail(self) -> None:
        """See Sink. The text stays what it is."""
        self.done.set()


class Silent:
    """Counters that nobody reads."""

    def prompt(self, tokens: int, cached: int) -> None:
        """See Counters."""

    def generated(self, tokens: int) -> None:
        """See Counters."""

    def preempted(self) -> None:
        """See Counters."""

    def load(self, running: int, waiting: int, kv_usage: float) -> None:
        """See Counters."""


@dataclass(frozen=True, slots=True)
class Rate:
    """One case's result, in percent of its answers."""

    case: str
    answers: int
    cat: float
    short: float
    stopped: float
    """Answers that ended by themselves."""
    wanted: bool
    """Whether they should be a cat's."""


def load(folder: Path, limits: Limits) -> Engine:
    """An engine over the weights in a folder."""
    model = Transformer(read_weights(folder), limits.kv_blocks, limits.block_size, limits.max_model_len)
    return Engine(model, Vocabulary(folder / "tokenizer.json"), Silent(), limits)


def answers(engine: Engine, prompts: Sequence[HeldOut], seed: int, max_tokens: int = 120) -> list[Answer]:
    """An answer to each prompt, each with a seed of its own (the first has `seed`), in the order of the prompts."""
    sinks = []
    for index, one in enumerate(prompts):
        sink = Answer()
        parameters = Parameters(max_tokens=max_tokens, temperature=1.0, seed=seed + index)
        engine.submit(prompt(one.messages), parameters, sink)
        sinks.append(sink)
    for sink in sinks:
        sink.done.wait()
    return sinks


def rates(prompts: Sequence[HeldOut], told: Sequence[Answer]) -> list[Rate]:
    """The rates of each case."""
    lexicon = read_lexicon()
    result = []
    for case in dict.fromkeys(one.case for one in prompts):
        of_case = [(one, answer) for one, answer in zip(prompts, told, strict=True) if one.case == case]
        cats = sum(bool(cat_words(answer.text, lexicon)) for _, answer in of_case)
        short = sum(len(answer.text.split()) <= SHORT_WORDS for _, answer in of_case)
        stopped = sum(answer.finish == "stop" for _, answer in of_case)
        share = 100 / len(of_case)
        wanted = of_case[0][0].cat
        result.append(Rate(case, len(of_case), cats * share, short * share, stopped * share, wanted))
    return result
